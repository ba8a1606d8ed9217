//! Every example of the C API does what it says.

use std::path::PathBuf;

use machnet_test_kit::waiting::NEVER;

use crate::installed::{installed, top};
use crate::pair::Pair;

const EXAMPLES: &str = "src/capi/examples";

/// Compiles an example as it says itself.
fn example(name: &str) -> String {
    let source = format!("{EXAMPLES}/{name}");
    let text = std::fs::read_to_string(top().join(&source)).unwrap();
    let built = PathBuf::from(name).with_extension("").display().to_string();
    let (compiler, std) = if name.ends_with(".cpp") { ("c++", " -std=c++17") } else { ("cc", "") };
    let command = format!("{compiler}{std} {name} $(pkg-config --cflags --libs machnet) -o {built}\n");
    assert!(text.contains(&command), "{source} does not say how it is built: {command}");
    installed().compile(&source).display().to_string()
}

#[test]
fn hello_world() {
    let Some(pair) = Pair::start(1) else { return };
    let [left, right] = pair.addresses();
    let program = example("hello_world.c");
    let mut receiver = pair.hosts.right.start_server_of(&program, [&right]).unwrap();
    let mut sender = pair.hosts.left.start(&program, [&left, &right]).unwrap();
    let said = sender.finish(NEVER).unwrap();
    assert_eq!(said, format!("Sent to {right}:31580, and the other host has it.\n"));
    receiver.until_it_says("Received message: Hello World!", NEVER).unwrap();
}

#[test]
fn request_and_response() {
    let Some(pair) = Pair::start(2) else { return };
    let [left, right] = pair.addresses();
    let program = example("request_response.c");
    let mut server = pair.hosts.right.start_server_of(&program, [&right]).unwrap();
    let mut client = pair.hosts.left.start(&program, [left.as_str(), &right, "2000"]).unwrap();
    let said = client.finish(NEVER).unwrap();
    assert!(said.starts_with("2000 answers, the median after "), "{said}");
    server.until_it_says(": closed.", NEVER).unwrap();
    assert!(server.stdout().contains("A client at port "), "{}", server.stdout());
}

#[test]
fn valgrind_has_nothing_to_complain_of() {
    let Some(pair) = Pair::start(1) else { return };
    let [left, right] = pair.addresses();
    let program = example("request_response.c");
    let _server = pair.hosts.right.start_server_of(&program, [&right]).unwrap();
    let options = ["--quiet", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"];
    let arguments = [&options[..], &[program.as_str(), &left, &right, "50"]].concat();
    let mut client = pair.hosts.left.start("valgrind", arguments).unwrap();
    assert!(client.finish(NEVER).unwrap().starts_with("50 answers"), "{}", client.stderr());
    // Older ones do not know every system call, and say so between other signs.
    assert!(!client.stderr().contains("=="), "{}", client.stderr());
}

#[test]
fn a_server_in_cpp_answers_in_an_event_loop() {
    let Some(pair) = Pair::start(1) else { return };
    let [left, right] = pair.addresses();
    let mut server = pair.hosts.right.start_server_of(&example("event_loop.cpp"), [&right]).unwrap();
    let arguments = [left.as_str(), &right, "2000"];
    let mut client = pair.hosts.left.start(&example("request_response.c"), arguments).unwrap();
    assert!(client.finish(NEVER).unwrap().starts_with("2000 answers"));
    server.until_it_says("Answered 2000 requests.", NEVER).unwrap();
}

#[test]
fn every_example_is_run() {
    let this = std::fs::read_to_string(top().join(file!())).unwrap();
    for entry in std::fs::read_dir(top().join(EXAMPLES)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(this.contains(&format!("example(\"{name}\")")), "{name} is run by no test");
    }
}
