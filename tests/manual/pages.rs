//! README and manual, taken apart.

use std::path::{Path, PathBuf};

/// The top of the repository.
pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page of documentation.
pub(crate) struct Page {
    /// From the top of the repository.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// What stands between two fences.
pub(crate) struct Block<'a> {
    /// What stands behind the first fence, such as `sh`.
    pub(crate) language: &'a str,
    /// The line of the first fence, from 1.
    pub(crate) line: usize,
    pub(crate) lines: Vec<&'a str>,
}

/// A command that a reader may type.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) line: usize,
    pub(crate) text: String,
    /// What it printed, in a `console` block.
    pub(crate) printed: Vec<String>,
}

/// Programs whose names, with something behind them, are a command in running text, too.
const PROGRAMS: [&str; 11] = [
    "cargo",
    "dpdk-devbind.py",
    "ethtool",
    "hello_world",
    "ip",
    "machnet-ping",
    "machnet-pktgen",
    "machnet-shards",
    "make",
    "msg_gen",
    "sysctl",
];

/// The READMEs, and every page of the manual.
pub(crate) fn pages() -> Vec<Page> {
    let mut files: Vec<PathBuf> = ["README.md", "src/README.md"].map(|file| top().join(file)).into();
    let manual = std::fs::read_dir(top().join("shards/src/manual")).unwrap();
    files.extend(manual.map(|entry| entry.unwrap().path()));
    files.sort();
    files.iter().map(|file| Page::read(file)).collect()
}

impl Page {
    fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        // The table of contents is Rust's; it has no fences and no commands, but links.
        Self { path: file.strip_prefix(top()).unwrap().display().to_string(), text }
    }

    /// Where a line stands, for a complaint.
    pub(crate) fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }

    /// All blocks between fences.
    pub(crate) fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks = Vec::new();
        let mut open: Option<Block<'_>> = None;
        for (index, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(language), None) => open = Some(Block { language, line: index + 1, lines: Vec::new() }),
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => block.lines.push(line),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a fence is not closed", self.path);
        blocks
    }

    /// The lines between the blocks, with their numbers.
    pub(crate) fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut inside = false;
        self.text.lines().enumerate().filter_map(move |(index, line)| {
            let is_fence = line.starts_with("```");
            inside ^= is_fence;
            (!inside && !is_fence).then_some((index + 1, line))
        })
    }

    /// Every command that is shown: each line of a `sh` block, each line behind a prompt of a `console` block, and what
    /// begins with a program in running text.
    pub(crate) fn commands(&self) -> Vec<Command> {
        let mut commands = Vec::new();
        for block in self.blocks() {
            for (index, line) in block.lines.iter().enumerate() {
                let shown = match block.language {
                    "sh" => Some(*line),
                    "console" => line.strip_prefix("$ "),
                    _ => None,
                };
                let text = shown.map_or("", |shown| shown.split(" #").next().unwrap_or_default().trim());
                if !text.is_empty() {
                    let later = block.lines[index + 1..].iter().take_while(|line| !line.starts_with("$ "));
                    let printed = later.filter(|_| block.language == "console").map(|line| (*line).to_owned());
                    let (line, printed) = (block.line + 1 + index, printed.collect());
                    commands.push(Command { line, text: text.to_owned(), printed });
                }
            }
        }
        for (line, text) in self.prose() {
            // Every second part stands between backticks.
            for span in text.split('`').skip(1).step_by(2) {
                if span.split_once(' ').is_some_and(|(program, _)| PROGRAMS.contains(&program)) {
                    commands.push(Command { line, text: span.to_owned(), printed: Vec::new() });
                }
            }
        }
        commands
    }

    /// The targets of all links in running text that lead to a file: `[text](target)` and `[name]: target`.
    pub(crate) fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (line, text) in self.prose() {
            let inline = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
            let named = text.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target);
            links.extend(inline.chain(named).map(|target| (line, target.to_owned())));
        }
        links
    }

    /// The names under which headings can be linked to, as GitHub makes them.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let headings = self.prose().filter(|(_, line)| line.starts_with('#'));
        let anchor = |heading: &str| -> String {
            let kept = |character: &char| character.is_alphanumeric() || " -_".contains(*character);
            heading.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect()
        };
        headings.map(|(_, heading)| anchor(heading).replace(' ', "-")).collect()
    }
}

#[test]
fn a_page_is_taken_apart() {
    let text = "# A title, two\nsee `make x` and `make`, [here](a.md#b)\n```sh\nmake y  # why\n\n```\n```console\n$ ls -l\nmake z\n```\n[n]: c::d\n";
    let page = Page { path: "p.md".to_owned(), text: text.to_owned() };
    assert_eq!(page.commands()[1].printed, ["make z"]);
    let commands: Vec<_> = page.commands().into_iter().map(|Command { line, text, .. }| (line, text)).collect();
    assert_eq!(commands, [(4, "make y"), (8, "ls -l"), (2, "make x")].map(|(line, text)| (line, text.to_owned())));
    assert_eq!(page.links(), [(2, "a.md#b".to_owned()), (11, "c::d".to_owned())]);
    assert_eq!(page.anchors(), ["a-title-two"]);
    assert_eq!(page.blocks()[0].lines, ["make y  # why", ""]);
}
