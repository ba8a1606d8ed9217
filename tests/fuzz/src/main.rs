//! The fuzzer: libFuzzer on the target that `MACHNET_FUZZ_TARGET` names. `make fuzz` builds and starts it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use machnet_fuzz::{Target, target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("MACHNET_FUZZ_TARGET").expect("MACHNET_FUZZ_TARGET names a target");
    *target(&name).unwrap_or_else(|| panic!("there is no target {name}"))
});

fuzz_target!(|bytes: &[u8]| {
    (TARGET.run)(bytes);
});
