//! The Python package, installed by pip from the tree, and the shim as other languages load it, between two hosts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use machnet_test_kit::hosts::{Host, Program};
use machnet_test_kit::waiting::NEVER;

use crate::installed::{installed, said, top};
use crate::pair::Pair;
use crate::talking::{made_for_machnet, start};

/// Where the package was installed, once for all tests.
static PACKAGE: LazyLock<PathBuf> = LazyLock::new(|| {
    let into = installed().directory("python");
    // A copy: pip leaves nothing behind in the tree.
    let tree = installed().directory("python_tree");
    said(Command::new("cp").arg("-r").arg(top().join("src/python")).arg(&tree));
    let options = ["-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check", "--target"];
    said(Command::new("python3").args(options).arg(&into).arg(tree.join("python")));
    into
});

/// Starts a program in Python with the package in its path, and our library where the loader looks.
fn start_python(host: &Host, program: &Path, arguments: &[&str]) -> Program {
    let environment = [
        format!("PYTHONPATH={}", PACKAGE.display()),
        format!("LD_LIBRARY_PATH={}", installed().prefix().join("lib").display()),
        "python3".to_owned(),
        program.display().to_string(),
    ];
    host.start("env", environment.iter().map(String::as_str).chain(arguments.iter().copied())).unwrap()
}

#[test]
fn other_languages_load_the_shim_by_its_name() {
    let Some(pair) = Pair::start(1) else { return };
    let [left, right] = pair.addresses();
    let program = top().join("tests/capi/programs/shim.py");
    let mut server = start_python(&pair.hosts.right, &program, &[&right]);
    server.until_it_says("Listening", NEVER).unwrap();
    let mut client = start_python(&pair.hosts.left, &program, &[&left, &right]);
    assert_eq!(client.finish(NEVER).unwrap(), "All is well\n");
}

fn example(name: &str) -> PathBuf {
    top().join("src/python/examples").join(name)
}

#[test]
fn the_package_talks_to_a_program_in_c() {
    let Some(pair) = Pair::start(2) else { return };
    let [left, right] = pair.addresses();
    let (echo, libraries) = made_for_machnet("libmachnet_shim.so");
    let mut server = start(&pair.hosts.right, &libraries, &echo, &[&right]);
    server.until_it_says("Listening", NEVER).unwrap();
    let program = top().join("tests/capi/programs/channel.py");
    let mut client = start_python(&pair.hosts.left, &program, &[&left, &right]);
    assert_eq!(client.finish(NEVER).unwrap(), format!("All is well, with {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(client.stderr(), "");
}

#[test]
fn hello_world() {
    let Some(pair) = Pair::start(1) else { return };
    let [left, right] = pair.addresses();
    let mut receiver = start_python(&pair.hosts.right, &example("hello_world.py"), &["--local", &right]);
    receiver.until_it_says("Listening", NEVER).unwrap();
    let arguments = ["--local", &left, "--remote", &right];
    let said = start_python(&pair.hosts.left, &example("hello_world.py"), &arguments).finish(NEVER).unwrap();
    assert_eq!(said, format!("Sent to {right}:31580, and the other host has it.\n"));
    receiver.until_it_says("Received message: Hello World!", NEVER).unwrap();
}

#[test]
fn request_and_response() {
    let Some(pair) = Pair::start(1) else { return };
    let [left, right] = pair.addresses();
    let mut server = start_python(&pair.hosts.right, &example("request_response.py"), &["--local", &right]);
    server.until_it_says("Listening", NEVER).unwrap();
    let arguments = ["--local", &left, "--remote", &right, "--clients", "4", "--requests", "200"];
    let said = start_python(&pair.hosts.left, &example("request_response.py"), &arguments).finish(NEVER).unwrap();
    assert!(said.starts_with("800 answers, the median after "), "{said}");
    server.until_it_says(": closed.", NEVER).unwrap();
}

#[test]
fn without_the_library_an_import_says_what_to_do() {
    let missing = installed().directory("nothing").join("libmachnet.so.0");
    let imported = Command::new("python3")
        .args(["-c", "import machnet"])
        .env("PYTHONPATH", &*PACKAGE)
        .env("MACHNET_LIBRARY", missing)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&imported.stderr);
    assert!(!imported.status.success() && words.contains("install it with make install, or name it in"), "{words}");
}

#[test]
fn package_and_library_are_of_one_version() {
    let project = std::fs::read_to_string(top().join("src/python/pyproject.toml")).unwrap();
    assert!(project.contains(&format!("\nversion = \"{}\"\n", env!("CARGO_PKG_VERSION"))), "{project}");
}

#[test]
fn every_example_is_run() {
    let this = std::fs::read_to_string(top().join(file!())).unwrap();
    for entry in std::fs::read_dir(top().join("src/python/examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(this.contains(&format!("example(\"{name}\")")), "{name} is run by no test");
    }
}
