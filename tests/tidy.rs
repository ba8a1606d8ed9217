//! The code's own tidiness: its shape, who may name whom, what stands where. A failure says where, what, and what to
//! do.
//!
//! The rules read text, not syntax: the code is in rustfmt's form, so a function ends where its closing brace has the
//! indentation of its first line. Comments, texts and characters are blanked first for rules about code.

use std::path::Path;

/// The longest line, as in `.rustfmt.toml`. A line with a text in it may be longer: a message is found by its words.
const LINE_COLUMNS: usize = 120;
/// The longest function.
const FUNCTION_LINES: usize = 70;
/// The longest file, without its tests.
const FILE_LINES: usize = 600;

/// What may stand at the top, besides the directories of [`TOP_DIRECTORIES`].
const TOP_FILES: [&str; 9] = [
    ".gitignore",
    ".rustfmt.toml",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    SECURITY,
    "config.json",
];
/// What is promised to whom, and the tests that show it.
const SECURITY: &str = "SECURITY.md";
/// Where the tests are whose subject it is.
const ATTACKS: &str = "tests/attack/";
const TOP_DIRECTORIES: [&str; 6] = [".ci", ".github", "benches", "shards", "src", "tests"];

/// Where `unsafe` may be written: memory shared with an application, descriptors, C, and a shard's sleep.
const UNSAFE_FILES: [&str; 10] = [
    "src/channel/segment.rs",
    "src/channel/pool.rs",
    "src/channel/model.rs",
    "src/control/socket.rs",
    "src/capi/",
    "shards/nic/src/dpdk/",
    "shards/nic/src/lock.rs",
    "shards/nic/src/packet/",
    "shards/src/shard/run.rs",
    "shards/dpdk-sys/",
];

/// Where threads of the daemon, and of a tool, share memory; `shards/src/lib.rs` lists what.
const SHARED_FILES: [&str; 9] = [
    "shards/src/mailbox.rs",
    "shards/src/handover.rs",
    "shards/src/counters.rs",
    "shards/src/counters/flows.rs",
    "shards/src/shard/run.rs",
    "shards/nic/src/dpdk/",
    "shards/nic/src/packet/",
    "shards/tools/src/stop.rs",
    "shards/tools/src/bin/machnet-pktgen/counts.rs",
];
const SHARED_REMEDY: &str = "post a message; what threads share stands in the list of shards/src/lib.rs";

const PART_REMEDY: &str = "say what is to be done in an Action, a part of the coordinator changes only itself";

/// Names that only some files may use: (where the rule holds, name, the files that may, what to do elsewhere).
const OWNED_NAMES: [(&str, &str, &[&str], &str); 26] = [
    ("", "unsafe", &UNSAFE_FILES, "write it safely, or move it behind a safe function of a file that may"),
    ("", "dpdk_sys", &["shards/nic/src/dpdk/"], "ask NicQueue, only the NIC layer knows DPDK"),
    ("shards/", "glommio", &["shards/src/executor.rs"], "give the task to executor.rs, which knows what can run it"),
    ("", "flume", &["shards/src/mailbox.rs"], "send through a handle of mailbox.rs"),
    ("", "async fn", &[], "keep it a plain function, no task waits for another one here"),
    ("shards/src/shard/", "crate::coordinator", &[], "post a message, both sides know only the mailbox"),
    ("shards/src/coordinator/", "crate::shard", &[], "post a message, both sides know only the mailbox"),
    (
        "shards/src/coordinator/",
        "Coordinator",
        &["shards/src/coordinator/mod.rs", "shards/src/coordinator/saved.rs", "/worker.rs", "/run.rs"],
        PART_REMEDY,
    ),
    ("shards/src/shard/", "Mutex", &[], "a shard owns its state and takes no lock"),
    ("shards/", "AtomicU64", &SHARED_FILES, SHARED_REMEDY),
    ("shards/", "AtomicUsize", &SHARED_FILES, SHARED_REMEDY),
    ("shards/", "AtomicBool", &SHARED_FILES, SHARED_REMEDY),
    ("src/channel/app_end", "shard_end", &[], "put what both need into a file of its own"),
    ("src/channel/shard_end", "app_end", &[], "put what both need into a file of its own"),
    ("src/bin/", "machnet::daemon", &[], "use what every application has"),
    ("src/", "machnet_proto", &[], "shard/channels.rs is where channel and protocol meet"),
    ("", "Dialect::Extended", &["shards/proto/src/dialect/"], "ask the flow's dialect; only its room asks which it is"),
    ("shards/proto/", "use machnet", &[], "shard/channels.rs is where channel and protocol meet"),
    ("shards/proto/", "machnet_nic", &[], "the protocol knows no device"),
    ("shards/nic/", "use machnet", &[], "a queue knows no application"),
    ("shards/nic/", "machnet_shards", &[], "a queue knows no daemon"),
    ("shards/tools/", "machnet_shards", &[], "a tool is no daemon: what both need stands below both"),
    ("src/core/", "std", &[], "use core, what all speak of knows no system"),
    ("shards/proto/", "std", &[], "use core or alloc, the protocol knows no system"),
    ("shards/proto/", "Instant::now", &[], "take the moment as an argument, the protocol knows no clock"),
    ("shards/src/shard/", "Instant::now", &["/run.rs"], "take the moment as an argument, run.rs reads the clock"),
];

/// What no code may have outside tests, and what to write instead.
const BANNED: [(&str, &str); 5] = [
    (".unwrap()", "return an error, or expect(...) with the invariant that is ours"),
    ("todo!", "write it, or return an error that says so"),
    ("unimplemented!", "write it, or return an error that says so"),
    ("dbg!", "remove it, or trace"),
    ("println!", "trace it; only tools talk on stdout"),
];
/// Who may print: tools, and build scripts to Cargo.
const MAY_PRINT: [&str; 3] = ["src/bin/", "shards/src/main.rs", "build.rs"];

/// What a package may depend on without being asked for by a feature; every other package is free.
const DEPENDENCIES: [(&str, &[&str]); 5] = [
    ("Cargo.toml", &["machnet-core", "libc", "rustix", "serde", "serde_json", "thiserror"]),
    ("src/core/Cargo.toml", &[]),
    ("src/capi/Cargo.toml", &["libc", "machnet"]),
    ("shards/proto/Cargo.toml", &["machnet-core", "bitflags", "hashbrown", "siphasher", "zerocopy"]),
    ("shards/dpdk-sys/Cargo.toml", &[]),
];

/// What tests and benches share; a product that depends on it would carry tests.
const TEST_KIT: &str = "machnet-test-kit";
const TEST_KIT_DIRECTORY: &str = "tests/kit/";
/// What is made by hand: (what it looks like, what it is, what the kit has instead).
const IN_THE_KIT: [(&str, &str, &str); 2] = [
    ("temp_dir()", "a temporary directory made by hand", "use machnet_test_kit::Scratch, nothing of it stays"),
    (
        "assert!(Instant::now() <",
        "a deadline kept by hand",
        "use machnet_test_kit::waiting::eventually, it says what it waited for",
    ),
];

/// Module names that say nothing.
const EMPTY_NAMES: [&str; 5] = ["utils", "util", "common", "types", "helpers"];

/// Docs that say nothing: whoever reads them knows as much as before.
const EMPTY_DOCS: [&str; 13] = [
    "Which.",
    "What.",
    "Who.",
    "Whose.",
    "Why.",
    "How.",
    "Where.",
    "When.",
    "What it is.",
    "Whose it is.",
    "Its name.",
    "The same.",
    "The other direction.",
];

/// One file.
struct Source {
    /// From the top of the repository, with slashes.
    path: String,
    text: String,
    /// The text with comments, texts and characters blanked, line for line and column for column; Rust only.
    code: String,
    /// The first line that belongs to tests, from 0; the number of lines if none does.
    tests_from: usize,
}

impl Source {
    fn new(path: &str, text: String) -> Self {
        let code = if path.ends_with(".rs") { blanked(&text) } else { text.clone() };
        let of_tests = path.starts_with("tests/")
            || path.starts_with("benches/")
            || path.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "benches"));
        let lines: Vec<_> = code.lines().collect();
        let begins_tests = |pair: &[&str]| {
            pair[0].starts_with("#[cfg(")
                && pair[0].contains("test")
                && pair[1].starts_with("mod ")
                && pair[1].ends_with('{')
        };
        let tests_from = if of_tests { Some(0) } else { lines.windows(2).position(begins_tests) };
        Self { path: path.to_owned(), tests_from: tests_from.unwrap_or(lines.len()), code, text }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The lines of code that are no tests, counted from 1.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().take(self.tests_from).enumerate().map(|(index, line)| (index + 1, line))
    }

    fn complaint(&self, line: usize, what: &str, remedy: &str) -> String {
        format!("{}:{line}: {what}: {remedy}", self.path)
    }
}

fn check(source: &Source) -> Vec<String> {
    let mut complaints = long_lines(source);
    complaints.extend(machine_paths(source));
    complaints.extend(long_functions(source));
    complaints.extend(heavy_dependencies(source));
    complaints.extend(kit_in_a_product(source));
    if source.is_rust() {
        complaints.extend(long_file(source));
        complaints.extend(owned_names(source));
        complaints.extend(banned(source));
        complaints.extend(made_by_hand(source));
        complaints.extend(included_by_path(source));
        complaints.extend(empty_name(source));
        complaints.extend(bench_without_question(source));
        complaints.extend(empty_docs(source));
        complaints.extend(limits_by_another_name(source));
    }
    complaints
}

fn long_lines(source: &Source) -> Vec<String> {
    let wraps = [".rs", ".c", ".cpp", ".h", ".hpp", ".py", ".yml", ".sh", "Makefile", ".ci/run", ".ci/deps"];
    let wraps = wraps.iter().any(|end| source.path.ends_with(end));
    let long = |line: &str| line.chars().count() > LINE_COLUMNS && !line.contains('"');
    let lines = source.text.lines().enumerate().filter(|(_, line)| wraps && long(line));
    let remedy = "wrap it (a comment: rustfmt +nightly --edition 2024 --config wrap_comments=true,comment_width=120)";
    lines
        .map(|(index, _)| source.complaint(index + 1, &format!("longer than {LINE_COLUMNS} columns"), remedy))
        .collect()
}

/// A path that exists on the author's machine only.
fn machine_paths(source: &Source) -> Vec<String> {
    let of_somebody = ["home", "root", "Users", "work"].map(|place| format!("/{place}/"));
    let mut complaints = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for path in &of_somebody {
            // Not inside a longer path or an address, such as github.com/x/root/.
            let absolute =
                |at: usize| !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "_-.}~".contains(c));
            if line.match_indices(path.as_str()).any(|(at, _)| absolute(at)) {
                let remedy = "name it from the repository's top, or let the user say it";
                complaints.push(source.complaint(index + 1, &format!("{path} exists on one machine only"), remedy));
            }
        }
    }
    complaints
}

fn long_functions(source: &Source) -> Vec<String> {
    let lines: Vec<_> = source.code.lines().collect();
    let mut complaints = Vec::new();
    for (index, line) in lines.iter().enumerate().take(source.tests_from) {
        let indentation = line.len() - line.trim_start().len();
        let begins = if source.is_rust() {
            let is_declared_only = line.trim_end().ends_with(';');
            has_word(line, "fn") && line.trim_end().ends_with(['{', '(', '>'])
                || line.trim_start().starts_with("fn ") && !is_declared_only
        } else {
            source.path.ends_with(".c") && indentation == 0 && line.ends_with('{') && line.contains('(')
        };
        if !begins {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indentation));
        let ends = |line: &&str| line.trim_end() == end;
        let count = lines[index..].iter().position(ends).map_or(1, |distance| distance + 1);
        if count > FUNCTION_LINES {
            let what = format!("a function of {count} lines, more than {FUNCTION_LINES}");
            complaints.push(source.complaint(index + 1, &what, "give its parts names of their own"));
        }
    }
    complaints
}

fn long_file(source: &Source) -> Option<String> {
    let remedy = "split it by what its parts are about";
    let what = format!("{} lines without tests, more than {FILE_LINES}", source.tests_from);
    (source.tests_from > FILE_LINES).then(|| source.complaint(source.tests_from, &what, remedy))
}

fn owned_names(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (within, name, owners, remedy) in OWNED_NAMES {
        // An owner is a file, a directory, or the name of a file anywhere.
        let owns = |owner: &&str| {
            let anywhere = owner.starts_with('/') && source.path.ends_with(*owner);
            anywhere || source.path == **owner || owner.ends_with('/') && source.path.starts_with(*owner)
        };
        if source.path.starts_with(within) && !owners.iter().any(owns) {
            let uses = source.code_lines().filter(|(_, line)| has_word(line, name));
            complaints
                .extend(uses.map(|(line, _)| source.complaint(line, &format!("{name} may not stand here"), remedy)));
        }
    }
    complaints
}

fn banned(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (word, remedy) in BANNED {
        if word == "println!" && MAY_PRINT.iter().any(|place| source.path.contains(place)) {
            continue;
        }
        let uses = source.code_lines().filter(|(_, line)| line.contains(word) && !line.contains(&format!("e{word}")));
        complaints.extend(uses.map(|(line, _)| source.complaint(line, &format!("{word} outside tests"), remedy)));
    }
    complaints
}

/// What tests and benches have in their kit; tests of every package use it, so that tests are looked at, too.
fn made_by_hand(source: &Source) -> Vec<String> {
    if source.path.starts_with(TEST_KIT_DIRECTORY) {
        return Vec::new();
    }
    let made = |(index, line): (usize, &str)| {
        let (_, what, remedy) = IN_THE_KIT.iter().find(|(words, ..)| line.contains(words))?;
        Some(source.complaint(index + 1, what, remedy))
    };
    source.code.lines().enumerate().filter_map(made).collect()
}

/// A file that several programs compile, each its own way.
fn included_by_path(source: &Source) -> Vec<String> {
    let includes = source.code.lines().enumerate().filter(|(_, line)| line.contains("#[path"));
    let remedy = "what tests and benches share is a room of tests/kit";
    includes.map(|(index, _)| source.complaint(index + 1, "a file included by its path", remedy)).collect()
}

fn empty_name(source: &Source) -> Option<String> {
    let name = EMPTY_NAMES
        .iter()
        .find(|name| source.path.split('/').any(|part| part == **name || part.strip_suffix(".rs") == Some(**name)))?;
    Some(source.complaint(1, &format!("{name} says nothing"), "name the module after what it is about"))
}

fn bench_without_question(source: &Source) -> Option<String> {
    let is_bench = source.path.contains("benches/")
        && (source.path.ends_with("/main.rs") || source.path.rsplit_once('/')?.0.ends_with("benches"));
    let asks = source.text.lines().next().is_some_and(|first| first.starts_with("//! ") && first.ends_with('?'));
    (is_bench && !asks)
        .then(|| source.complaint(1, "a benchmark without its question", "ask it in the first line, //! ...?"))
}

fn empty_docs(source: &Source) -> Vec<String> {
    // A doc of several lines may begin or end with such words.
    let doc = |line: &str| line.trim().strip_prefix("///").map(|text| text.trim().to_owned());
    let docs: Vec<_> = source.text.lines().map(doc).collect();
    let alone = |index: usize| {
        let before = index.checked_sub(1).and_then(|before| docs[before].as_deref());
        before.is_none() && docs.get(index + 1).is_none_or(Option::is_none)
    };
    let says_nothing = |doc: &Option<String>| doc.as_deref().is_some_and(|doc| EMPTY_DOCS.contains(&doc));
    let empty = docs.iter().enumerate().filter(|(index, doc)| says_nothing(doc) && alone(*index));
    let remedy = "say meaning, unit, or where it comes from";
    empty.map(|(index, _)| source.complaint(index + 1, "a doc that says nothing", remedy)).collect()
}

fn limits_by_another_name(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (index, line) in source.code.lines().enumerate() {
        for end in ["MAX", "MIN"] {
            if line.contains(&format!("const {end}_")) {
                let remedy = &format!("put _{end} at the end");
                complaints.push(source.complaint(index + 1, &format!("a limit that begins with {end}_"), remedy));
            }
        }
    }
    complaints
}

fn heavy_dependencies(source: &Source) -> Vec<String> {
    let Some((_, allowed)) = DEPENDENCIES.iter().find(|(path, _)| source.path == *path) else { return Vec::new() };
    let mut complaints = Vec::new();
    let mut section = "";
    for (index, line) in source.text.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        let named = !name.is_empty() && !name.starts_with('#');
        if section == "[dependencies]" && named && !allowed.contains(&name) && !line.contains("optional = true") {
            let remedy = "do without, make it optional behind a feature, or say why in tests/tidy.rs";
            complaints.push(source.complaint(index + 1, &format!("{name} for everybody who links this"), remedy));
        }
    }
    complaints
}

fn kit_in_a_product(source: &Source) -> Vec<String> {
    if !source.path.ends_with("Cargo.toml") {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    let mut section = "";
    for (index, line) in source.text.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        } else if line.starts_with(TEST_KIT)
            && !section.ends_with("dev-dependencies]")
            && section != "[workspace.dependencies]"
        {
            let what = format!("{TEST_KIT} in {section}");
            complaints.push(source.complaint(index + 1, &what, "only tests and benches use it: [dev-dependencies]"));
        }
    }
    complaints
}

/// Whether `name` stands in `line`, not as a part of a longer name.
fn has_word(line: &str, name: &str) -> bool {
    let continues = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(name).any(|(at, _)| {
        let after = &line[at + name.len()..];
        !line[..at].ends_with(continues) && !after.starts_with(continues)
    })
}

/// `text` with the insides of comments, texts and characters replaced by blanks.
fn blanked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let previous_continues = out.ends_with(|character: char| character.is_alphanumeric() || character == '_');
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => quoted(rest, 1),
            'r' | 'b' | 'c' if !previous_continues => prefixed_text(rest),
            '\'' => character(rest),
            _ => 0,
        };
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

/// The length of a block comment, which may hold others.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let step = match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (1, 2),
            [b'*', b'/', ..] => (-1, 2),
            _ => (0, 1),
        };
        depth += step.0;
        at += step.1;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of a text with escapes whose inside begins at `at`.
fn quoted(text: &str, mut at: usize) -> usize {
    while let Some(byte) = text.as_bytes().get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of a text that begins with letters, as in `br#"..."#`; 0 if this is a name.
fn prefixed_text(text: &str) -> usize {
    let letters = text.bytes().take_while(|byte| b"rbc".contains(byte)).count();
    let hashes = text.bytes().skip(letters).take_while(|byte| *byte == b'#').count();
    let inside = letters + hashes + 1;
    match text.as_bytes().get(inside - 1) {
        Some(b'"') if text[..letters].contains('r') => {
            let end = format!("\"{}", "#".repeat(hashes));
            text[inside..].find(&end).map_or(text.len(), |at| inside + at + end.len())
        }
        Some(b'"') if hashes == 0 => quoted(text, inside),
        Some(b'\'') if hashes == 0 && letters == 1 => letters + character(&text[letters..]),
        _ => 0,
    }
}

/// The length of a character in quotes; 0 if this is a lifetime.
fn character(text: &str) -> usize {
    let mut inside = text[1..].chars();
    match inside.next() {
        Some('\\') => text[3..].find('\'').map_or(0, |at| at + 4),
        Some(one) if inside.next() == Some('\'') => one.len_utf8() + 2,
        _ => 0,
    }
}

/// All files that git would take, by path; `None` outside a checkout.
fn files() -> Option<Vec<String>> {
    // A container may run as another user than the owner of the checkout.
    let listing = std::process::Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()
        .filter(|listing| listing.status.success())?;
    Some(String::from_utf8(listing.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[test]
fn the_code_is_tidy() {
    let Some(files) = files() else {
        assert!(std::env::var_os("MACHNET_TEST_NO_SKIP").is_none_or(|value| value != "1"), "not a git checkout");
        return eprintln!("SKIPPED the_code_is_tidy: this is not a git checkout");
    };
    let mut complaints = misplaced(&files);
    let mut sources = Vec::new();
    for path in files {
        // A link or a file that is deleted but not yet committed has no text; a binary one has no lines.
        let Ok(text) = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)) else { continue };
        if path != file!() {
            let source = Source::new(&path, text);
            complaints.extend(check(&source));
            sources.push(source);
        }
    }
    complaints.extend(unshown_promises(&sources));
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn misplaced(files: &[String]) -> Vec<String> {
    let at_home = |path: &&String| match path.split_once('/') {
        Some((directory, _)) => TOP_DIRECTORIES.contains(&directory),
        None => TOP_FILES.contains(&path.as_str()),
    };
    let strays = files.iter().filter(|path| !at_home(path));
    strays
        .map(|path| format!("{path}: the top is fixed: move it to where it belongs, or say why in tests/tidy.rs"))
        .collect()
}

/// Promises whose tests there are not, and attacks that no promise names.
fn unshown_promises(sources: &[Source]) -> Vec<String> {
    let Some(security) = sources.iter().find(|source| source.path == SECURITY) else { return Vec::new() };
    // The name of the function on a line, if there is one without arguments, or a property's.
    let name = |line: &str| line.trim_start().strip_prefix("fn ")?.split_once('(').map(|(name, _)| name.to_owned());
    let tests = |source: &Source| source.code.lines().skip(source.tests_from).filter_map(name).collect::<Vec<_>>();
    let exist: Vec<_> = sources.iter().filter(|source| source.is_rust()).flat_map(tests).collect();
    let mut complaints = Vec::new();
    let mut named = Vec::new();
    for (index, line) in security.text.lines().enumerate() {
        let Some((_, shown_by)) = line.trim_end_matches([' ', '|']).rsplit_once(" | ") else { continue };
        let tests = || shown_by.split('`').skip(1).step_by(2);
        let missing = tests().filter(|test| !exist.iter().any(|name| name == test));
        let complain =
            |test| security.complaint(index + 1, &format!("there is no test {test}"), "name one that shows it");
        complaints.extend(missing.map(complain));
        named.extend(tests());
    }
    for source in sources.iter().filter(|source| source.path.starts_with(ATTACKS)) {
        let lines: Vec<_> = source.code.lines().collect();
        for (index, pair) in lines.windows(2).enumerate() {
            let test = (pair[0] == "#[test]").then(|| name(pair[1])).flatten();
            if let Some(test) = test.filter(|test| !named.contains(&test.as_str())) {
                let remedy = &format!("say in {SECURITY} what it shows");
                complaints.push(source.complaint(index + 2, &format!("no promise is shown by {test}"), remedy));
            }
        }
    }
    complaints
}

/// What `check` says about a file, without the path.
fn complaints(path: &str, text: &str) -> Vec<String> {
    let found = check(&Source::new(path, text.to_owned()));
    found.iter().map(|complaint| complaint.split_once(':').unwrap().1.to_owned()).collect()
}

#[test]
fn every_rule_can_fail() {
    let function = format!("fn f() {{\n{}}}\n", "    step();\n".repeat(FUNCTION_LINES));
    let long_comment = format!("// {}\n", "word ".repeat(30));
    for (path, text, beginning) in [
        ("src/a.rs", long_comment.as_str(), "1: longer than 120 columns: wrap it"),
        ("src/a.rs", function.as_str(), "1: a function of 72 lines, more than 70: give"),
        ("shards/dpdk-sys/shim.c", &function.replace("fn f", "int f"), "1: a function of 72 lines"),
        ("src/a.rs", &"f();\n".repeat(601), "601: 601 lines without tests, more than 600: split"),
        ("src/a.rs", "\nfn f() { x.unwrap(); }\n", "2: .unwrap() outside tests: return an error"),
        ("src/a.rs", "fn f() { todo!() }\n", "1: todo! outside tests: write it"),
        ("src/a.rs", "fn f() { println!() }\n", "1: println! outside tests: trace it"),
        ("src/a.rs", "unsafe { f() }\n", "1: unsafe may not stand here: write it safely"),
        ("shards/src/shard/mod.rs", "use dpdk_sys::x;\n", "1: dpdk_sys may not stand here: ask NicQueue"),
        ("shards/src/shard/run.rs", "use glommio::x;\n", "1: glommio may not stand here: give the task"),
        ("shards/src/shard/mod.rs", "use crate::coordinator::X;\n", "1: crate::coordinator may not"),
        ("shards/src/shard/mod.rs", "async fn f() {}\n", "1: async fn may not stand here"),
        ("shards/src/coordinator/mod.rs", "use crate::shard::X;\n", "1: crate::shard may not"),
        ("shards/src/shard/a.rs", "f(Dialect::Extended);\n", "1: Dialect::Extended may not stand here: ask the flow's"),
        ("shards/src/coordinator/a.rs", "impl Coordinator {}\n", "1: Coordinator may not stand here: say what"),
        ("src/channel/app_end.rs", "use super::shard_end;\n", "1: shard_end may not stand here"),
        ("shards/proto/src/lib.rs", "use std::time;\n", "1: std may not stand here: use core"),
        ("shards/proto/src/lib.rs", "use machnet::X;\n", "1: use machnet may not stand here"),
        ("shards/src/utils.rs", "\n", "1: utils says nothing: name the module"),
        ("benches/ring.rs", "//! The ring.\n", "1: a benchmark without its question: ask it"),
        ("src/a.rs", "mod tests {\n    let a = temp_dir();\n", "2: a temporary directory made by hand: use"),
        ("tests/a.rs", "    assert!(Instant::now() < end);\n", "1: a deadline kept by hand: use"),
        ("tests/a.rs", "#[path = \"../b.rs\"]\nmod b;\n", "1: a file included by its path: what tests and"),
        (
            "shards/Cargo.toml",
            "[dependencies]\nmachnet-test-kit = \"1\"\n",
            "2: machnet-test-kit in [dependencies]: only",
        ),
        ("Cargo.toml", "[dependencies]\nrustix = \"1\"\ntokio.workspace = true\n", "3: tokio for everybody who links"),
        ("src/a.rs", "    /// Which.\n    pub shard: u16,\n", "1: a doc that says nothing: say meaning"),
        ("tests/a.rs", "const MAX_FLOWS: u8 = 1;\n", "1: a limit that begins with MAX_: put _MAX"),
        ("README.md", "see /home/me/x\n", "1: /home/ exists on one machine only: name it"),
    ] {
        let found = complaints(path, text);
        assert!(found.len() == 1 && found[0].starts_with(beginning), "{path}: {text:.60}: {found:?}");
    }
    let promises = Source::new(SECURITY, "# `x`\n| it | shown by |\n|---|---|\n| dies | `a_test` `none` |\n".into());
    let attacks = Source::new("tests/attack/a.rs", "#[test]\nfn a_test() {}\n#[test]\nfn another() {}\n".into());
    let found = unshown_promises(&[promises, attacks]);
    assert_eq!(
        found,
        [
            "SECURITY.md:4: there is no test none: name one that shows it",
            "tests/attack/a.rs:4: no promise is shown by another: say in SECURITY.md what it shows"
        ]
    );
    let stray = misplaced(&["notes.txt".to_owned(), "docs/a.md".to_owned(), "src/lib.rs".to_owned()]);
    assert_eq!(stray.len(), 2, "{stray:?}");
}

#[test]
fn what_is_allowed_passes() {
    for (path, text) in [
        ("src/channel/pool.rs", "unsafe { f() }\n"),
        ("src/a.rs", "#![deny(unsafe_code)]\n// unsafe, todo!\nconst A: &str = r#\"x.unwrap() \" todo!\"#;\n"),
        ("src/a.rs", &format!("trait T {{\n    fn f();\n{}    }}\n}}\n", "    a!();\n".repeat(80))),
        ("src/a.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() { x.unwrap(); }\n}\n"),
        ("src/a.rs", "fn f<'a>(x: &'a str) -> char { '\"' }\nfn g() { '\\'' }\n/* /* todo! */ todo! */\n"),
        ("shards/src/shard/run.rs", "fn f() { Instant::now(); unsafe { g() } }\n"),
        ("shards/src/executor.rs", "fn f() { glommio::yield_now(); }\n"),
        ("shards/src/coordinator/mod.rs", "use crate::shards; use sharded_slab::X; impl Coordinator {}\n"),
        ("shards/src/coordinator/a.rs", "use crate::mailbox::ToCoordinator; // Coordinator\n"),
        ("shards/proto/src/b.rs", "use crate::wire::machnet::X; use machnet_x::Y;\n"),
        ("shards/proto/src/a.rs", "#[cfg(test)]\nmod tests {\n    use std::x;\n}\n"),
        ("tests/a.rs", "fn f() { x.unwrap(); println!(); }\n"),
        ("tests/kit/src/a.rs", "fn f() { temp_dir(); }\n"),
        ("benches/ring.rs", "//! How long does a descriptor take from end to end?\n"),
        ("Cargo.toml", "[dependencies]\n# x\nserde = \"1\"\nclap = { optional = true }\n\n[features]\nx = []\n"),
        ("shards/Cargo.toml", "[dev-dependencies]\nmachnet-test-kit.workspace = true\n"),
        ("Cargo.toml", "[target.'cfg(not(loom))'.dev-dependencies]\nmachnet-test-kit.workspace = true\n"),
        ("src/a.rs", "/// One of them.\n/// Which.\nconst FLOWS_MAX: u8 = 1; // MAX_PROBES of RFC 8899\n"),
        ("README.md", "see https://example.org/home/me and ~/work/x\n"),
    ] {
        assert_eq!(complaints(path, text), [""; 0], "{path}: {text}");
    }
}
