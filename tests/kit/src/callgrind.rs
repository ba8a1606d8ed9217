//! Instructions and cache misses, counted by callgrind: of functions whose names contain `_here`, in a process of its
//! own.

use std::process::{Command, Stdio};

/// What one of the things that a process counts costs.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Instructions executed.
    pub instructions: f64,
    /// Accesses to data that the first-level cache does not have.
    pub first_level_misses: f64,
    /// Accesses to data that the last-level cache does not have.
    pub last_level_misses: f64,
}

/// Whether anything can be counted.
pub fn is_there() -> bool {
    Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_ok()
}

/// Runs this program with these arguments, which say what it does; it prints how often it has.
pub fn count(arguments: &[&str]) -> Cost {
    let this = std::env::current_exe().expect("the path of this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--cache-sim=yes", "--collect-atstart=no", "--toggle-collect=*_here*"])
        .arg("--callgrind-out-file=/dev/null")
        .arg(this)
        .args(arguments)
        .output()
        .expect("valgrind runs");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    let times: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
    // "==pid== Events    : Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw", and a line of sums under it.
    let numbers = |name: &str| {
        let line = report.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("no {name}: {report}"));
        line.split_once(name).expect("found").1.trim_start_matches([' ', ':']).split(' ').map(str::to_owned)
    };
    let sums: Vec<(String, f64)> = numbers("Events")
        .zip(numbers("Collected"))
        .map(|(event, sum)| (event, sum.parse::<f64>().expect("a sum") / times))
        .collect();
    let of =
        |wanted: [&str; 2]| sums.iter().filter(|(event, _)| wanted.contains(&event.as_str())).map(|(_, sum)| sum).sum();
    Cost {
        instructions: of(["Ir", ""]),
        first_level_misses: of(["D1mr", "D1mw"]),
        last_level_misses: of(["DLmr", "DLmw"]),
    }
}
