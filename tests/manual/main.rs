//! Whatever README and manual show is true: commands run, configurations are read, links lead somewhere.
//!
//! Programs in Rust are tested by `cargo test --doc`, links between pages and into the code by rustdoc (`make lint`).

mod commands;
mod pages;

use std::process::Command as Process;

use machnet_config::Config;
use machnet_test_kit::Scratch;

use pages::{Page, pages, top};

/// README's length, so that a newcomer reads it.
const README_LINES: usize = 200;

/// What may stand behind a fence, and who looks at it.
const LANGUAGES: [(&str, &str); 7] = [
    ("sh", "every line is a command"),
    ("console", "every line behind $ is a command, the others are what it printed"),
    ("json", "is read as a configuration"),
    ("c", "is compiled with our header"),
    ("toml", "names this package"),
    ("rust,no_run", "is compiled by cargo test --doc"),
    ("text", "a drawing, or an output"),
];

fn readme() -> Page {
    pages().into_iter().find(|page| page.path == "README.md").unwrap()
}

#[test]
fn the_readme_is_short() {
    let lines = readme().text.lines().count();
    let remedy = "move what a newcomer does not need to a page of the manual";
    assert!(lines <= README_LINES, "README.md has {lines} lines, more than {README_LINES}: {remedy}");
}

#[test]
fn every_block_is_of_a_language_that_is_tested() {
    for page in pages() {
        for block in page.blocks() {
            let at = page.at(block.line);
            let known = LANGUAGES.iter().any(|(language, _)| *language == block.language);
            assert!(known, "{at}: {:?} is none of {LANGUAGES:?}", block.language);
            if block.language == "text" {
                let shown = block.lines.iter().find(|line| line.starts_with("$ "));
                assert!(shown.is_none(), "{at}: a command stands in a text: make it a console");
            }
        }
    }
}

#[test]
fn every_configuration_shown_can_be_read() {
    let mut read = 0;
    for page in pages() {
        for block in page.blocks().iter().filter(|block| block.language == "json") {
            let text = block.lines.join("\n");
            let config = Config::parse(std::path::Path::new(&page.path), text.as_bytes());
            config.unwrap_or_else(|mistake| panic!("{}: {mistake}", page.at(block.line)));
            read += 1;
        }
    }
    assert!(read > 0, "no page shows a configuration");
}

#[test]
fn every_program_in_c_compiles() {
    let mut compiled = 0;
    for page in pages() {
        for block in page.blocks().iter().filter(|block| block.language == "c") {
            let scratch = Scratch::new().unwrap();
            let source = scratch.file("shown.c");
            std::fs::write(&source, block.lines.join("\n")).unwrap();
            let output = Process::new("cc")
                .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "-I"])
                .args([top().join("src/capi/include"), source])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}: {}", page.at(block.line), String::from_utf8_lossy(&output.stderr));
            compiled += 1;
        }
    }
    assert!(compiled > 0, "no page shows a program in C");
}

#[test]
fn whoever_adds_the_library_gets_this_package() {
    for page in pages() {
        for block in page.blocks().iter().filter(|block| block.language == "toml") {
            let dependency = block.lines.iter().find(|line| line.starts_with("machnet = ")).expect("it names us");
            for part in [format!("package = \"{}\"", env!("CARGO_PKG_NAME")), String::from("machnet = { ")] {
                assert!(dependency.contains(&part), "{}: {dependency} has no {part}", page.at(block.line));
            }
            if let Some((_, rest)) = dependency.split_once("version = \"") {
                let version = rest.split('"').next().unwrap();
                let ours = env!("CARGO_PKG_VERSION");
                assert!(ours.starts_with(version), "{}: {version} is not {ours}", page.at(block.line));
            }
            if let Some((_, rest)) = dependency.split_once("git = \"") {
                assert_eq!(rest.split('"').next(), Some(env!("CARGO_PKG_REPOSITORY")), "{}", page.at(block.line));
            }
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    let all = pages();
    let mut wrong = Vec::new();
    for page in &all {
        for (line, target) in page.links() {
            // Into the code: rustdoc looks. Out of the repository: nobody does.
            if target.contains("::") || target.starts_with("http") || !target.contains(['.', '/', '#']) {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let beside = top().join(&page.path).with_file_name(file);
            let path = if file.is_empty() { top().join(&page.path) } else { beside };
            let other = all.iter().find(|other| top().join(&other.path) == path);
            let has_anchor =
                anchor.is_empty() || other.is_some_and(|other| other.anchors().iter().any(|a| a == anchor));
            if !path.exists() || !has_anchor {
                wrong.push(format!("{}: {target} leads nowhere", page.at(line)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_is_named_in_the_readme_and_in_the_table_of_contents() {
    let readme = readme();
    let contents = std::fs::read_to_string(top().join("shards/src/manual/mod.rs")).unwrap();
    for page in pages().iter().filter(|page| page.path.starts_with("shards/") && page.path.ends_with(".md")) {
        assert!(readme.text.contains(&format!("]({})", page.path)), "README.md does not name {}", page.path);
        let name = page.path.rsplit_once('/').unwrap().1.strip_suffix(".md").unwrap();
        for part in [format!("//! | [`{name}`] |"), format!("include_str!(\"{name}.md\")")] {
            assert!(contents.contains(&part), "shards/src/manual/mod.rs has no {part}");
        }
    }
}
