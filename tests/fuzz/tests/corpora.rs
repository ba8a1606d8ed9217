//! What fuzzing has found so far is tried by every test run.

use std::fs;
use std::path::Path;

use machnet_fuzz::TARGETS;

#[test]
fn no_input_that_was_ever_of_interest_breaks_a_promise() {
    for target in TARGETS {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        let inputs: Vec<_> = fs::read_dir(&corpus).expect("each target has a corpus").flatten().collect();
        assert!(inputs.len() >= 4, "{}: {} inputs", target.name, inputs.len());
        for input in inputs {
            // Shown if the target panics.
            println!("{} {}", target.name, input.path().display());
            (target.run)(&fs::read(input.path()).expect("a file of the corpus"));
        }
    }
}
