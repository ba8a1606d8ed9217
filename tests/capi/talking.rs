//! C programs on two hosts, each with its daemon.

use machnet_test_kit::hosts::{Host, Program};
use machnet_test_kit::waiting::NEVER;

use crate::installed::installed;
use crate::pair::Pair;

/// Around the boundaries of a packet with 1,500 bytes of IP, of a message in one piece, and long ones.
const SIZES: [&str; 8] = ["1", "1417", "1418", "1419", "2836", "1048576", "4194304", "8388608"];

/// Starts a program that finds its libraries in `libraries`, if it does not know where they are.
pub(crate) fn start(host: &Host, libraries: &str, program: &std::path::Path, arguments: &[&str]) -> Program {
    let environment = [format!("LD_LIBRARY_PATH={libraries}"), program.display().to_string()];
    let arguments = environment.iter().map(String::as_str).chain(arguments.iter().copied());
    host.start("env", arguments).unwrap()
}

/// Links `echo.c` with a library of Machnet's names that does nothing, and gives the program, and where our library is
/// under that name.
pub(crate) fn made_for_machnet(name: &str) -> (std::path::PathBuf, String) {
    let directory = installed().directory(&format!("machnet_{name}"));
    let stub = directory.join(name);
    let shared = ["-shared".into(), "-fPIC".into()];
    let soname = name.ends_with(".0").then(|| format!("-Wl,-soname,{name}"));
    let built = installed().compile_c("tests/capi/programs/stub.c", &[&shared[..], &Vec::from_iter(soname)].concat());
    std::fs::copy(built, &stub).unwrap();
    let program = installed()
        .compile_c("tests/capi/programs/echo.c", &[format!("-L{}", directory.display()), format!("-l:{name}")]);
    (program, installed().prefix().join("lib").display().to_string())
}

/// A program that was compiled and linked with what Machnet has runs with ours, and nothing of it is changed.
#[test]
fn programs_made_for_machnet_talk_in_messages_of_every_size() {
    for (name, shards) in [("libmachnet_shim.so", 1), ("libmachnet_shim.so.0", 2)] {
        let (program, libraries) = made_for_machnet(name);
        let Some(pair) = Pair::start(shards) else { return };
        let [left, right] = pair.addresses();
        let mut server = start(&pair.hosts.right, &libraries, &program, &[&right]);
        server.until_it_says("Listening", NEVER).unwrap();
        let arguments = [&[left.as_str(), &right][..], &SIZES].concat();
        let mut client = start(&pair.hosts.left, &libraries, &program, &arguments);
        let said = client.finish(NEVER).unwrap();
        assert!(said.contains("All came back to 0a00ff01, control socket -1"), "{said}");
        assert_eq!(client.stderr(), "", "a library is silent");
    }
}

#[test]
fn what_machnet_does_not_have_works() {
    let Some(mut pair) = Pair::start(2) else { return };
    let [left, right] = pair.addresses();
    let (echo, libraries) = made_for_machnet("libmachnet_shim.so");
    let ours = installed().compile("tests/capi/programs/ours.c");
    let mut server = start(&pair.hosts.right, &libraries, &echo, &[&right]);
    server.until_it_says("Listening", NEVER).unwrap();
    let mut client = pair.hosts.left.start(&ours.display().to_string(), [&left, &right]).unwrap();
    client.until_it_says("The server may end", NEVER).unwrap();
    drop(server);
    client.until_it_says("The daemon may end", NEVER).unwrap();
    pair.kill_left();
    client.until_it_says("The daemon may come back", NEVER).unwrap();
    pair.start_left();
    let said = client.finish(NEVER).unwrap();
    assert!(said.ends_with("All is well\n"), "{said}");
    assert_eq!(client.stderr(), "", "a library is silent");
}

/// Runs a program, with so many shards, against an echo server that was made for Machnet.
fn talk_to_an_echo(source: &str, shards: u16) {
    let Some(pair) = Pair::start(shards) else { return };
    let [left, right] = pair.addresses();
    let (echo, libraries) = made_for_machnet("libmachnet_shim.so");
    let program = installed().compile(source);
    let mut server = start(&pair.hosts.right, &libraries, &echo, &[&right]);
    server.until_it_says("Listening", NEVER).unwrap();
    let mut client = pair.hosts.left.start(&program.display().to_string(), [&left, &right]).unwrap();
    assert_eq!(client.finish(NEVER).unwrap(), "All is well\n");
}

#[test]
fn programs_in_cpp_have_a_header_of_their_own() {
    talk_to_an_echo("tests/capi/programs/wrapper.cpp", 1);
}

#[test]
fn each_thread_has_a_channel_and_errors_of_its_own() {
    talk_to_an_echo("tests/capi/programs/threads.c", 2);
}

#[test]
fn a_program_is_told_what_to_do_if_it_asks_for_it() {
    let (echo, libraries) = made_for_machnet("libmachnet_shim.so");
    let mut alone = std::process::Command::new(echo);
    alone.arg("10.0.0.1").env("LD_LIBRARY_PATH", libraries).env("MACHNET_SOCKET", "/nonexistent/socket");
    for (verbose, expected) in
        [("0", ""), ("1", "libmachnet: no daemon serves /nonexistent/socket: start machnet-shards")]
    {
        let output = alone.env("MACHNET_VERBOSE", verbose).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.starts_with(expected), "{text}");
        assert!(text.ends_with("echo: cannot init\n"), "{text}");
    }
}
