//! More shards than CPUs: they share, and are told not to spin.

use std::collections::HashMap;

use machnet_config::Interface;
use machnet_core::wait::Policy;

/// For each interface with so many shards, in a process that may run on so many CPUs: what to say if its shards have
/// to share CPUs, and what to do about it. Shards that share take turns, which costs each of them latency and gains
/// nothing; but they work, which is better than not to start.
pub(super) fn find(interfaces: &[(&Interface, usize)], cpus: usize) -> Vec<Option<String>> {
    let mut shards_on: HashMap<usize, usize> = HashMap::new();
    for (interface, shards) in interfaces {
        for cpu in interface.shard_cpus.iter().take(*shards) {
            *shards_on.entry(*cpu).or_default() += 1;
        }
    }
    let all: usize = interfaces.iter().map(|(_, shards)| *shards).sum();
    let look = |(interface, shards): &(&Interface, usize)| {
        let crowd = match interface.shard_cpus.is_empty() {
            true if all <= cpus => return None,
            true => format!("the daemon's {all} shards share {cpus} CPU{}", if cpus == 1 { "" } else { "s" }),
            false => {
                let own = interface.shard_cpus.iter().take(*shards);
                let mut shared: Vec<usize> = own.copied().filter(|cpu| shards_on[cpu] > 1).collect();
                shared.sort_unstable();
                shared.dedup();
                let names: Vec<String> = shared.iter().map(usize::to_string).collect();
                let on_them: usize = shared.iter().map(|cpu| shards_on[cpu]).sum();
                match shared.len() {
                    0 => return None,
                    number => {
                        format!("{on_them} shards share CPU{} {}", if number == 1 { "" } else { "s" }, names.join(", "))
                    }
                }
            }
        };
        let spinning = match interface.poll {
            Policy::Busy => " and therefore do not spin (\"poll\")",
            Policy::Adaptive => "",
        };
        Some(format!("{crowd}{spinning}; lower \"engine_threads\" or name more CPUs in \"cpu_mask\""))
    };
    interfaces.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use machnet_config::Config;

    use super::*;

    fn config(interfaces: &str) -> Config {
        let text = format!("{{ \"machnet_config\": {{ {interfaces} }} }}");
        Config::parse("config.json".as_ref(), text.as_bytes()).expect("a configuration")
    }

    /// What is said of each interface when all its queues could be opened.
    fn said(config: &Config, cpus: usize) -> Vec<Option<String>> {
        let shards = config.interfaces.iter().map(|interface| (interface, usize::from(interface.shards)));
        find(&shards.collect::<Vec<_>>(), cpus)
    }

    #[test]
    fn enough_cpus_are_no_crowd() {
        let two = config(r#""02:00:00:00:00:01": { "ip": "10.0.0.1", "engine_threads": 2, "cpu_mask": "0x3" }"#);
        assert_eq!(said(&two, 2), [None]);
        let anywhere = config(r#""02:00:00:00:00:01": { "ip": "10.0.0.1", "engine_threads": 2, "poll": "busy" }"#);
        assert_eq!(said(&anywhere, 2), [None]);
    }

    #[test]
    fn shards_that_share_are_named_with_the_remedy() {
        let three = config(
            r#""02:00:00:00:00:01": { "ip": "10.0.0.1", "engine_threads": 3, "cpu_mask": "0x3", "poll": "busy" }"#,
        );
        let warning = "2 shards share CPU 0 and therefore do not spin (\"poll\"); \
                       lower \"engine_threads\" or name more CPUs in \"cpu_mask\"";
        assert_eq!(said(&three, 8), [Some(warning.into())]);
        // The device had two queues only: each shard has a CPU.
        assert_eq!(find(&[(&three.interfaces[0], 2)], 8), [None]);
        let anywhere = config(r#""02:00:00:00:00:01": { "ip": "10.0.0.1", "engine_threads": 3 }"#);
        assert!(
            said(&anywhere, 1)[0].as_deref().is_some_and(|said| said.starts_with("the daemon's 3 shards share 1 CPU;"))
        );
    }

    #[test]
    fn interfaces_may_crowd_each_other() {
        let two = config(
            r#""02:00:00:00:00:01": { "ip": "10.0.0.1", "engine_threads": 2, "cpu_mask": "0x3" },
               "02:00:00:00:00:02": { "ip": "10.0.0.2", "engine_threads": 1, "cpu_mask": "0x2" }"#,
        );
        let said = said(&two, 8);
        assert!(
            said.iter().all(|said| said.as_deref().is_some_and(|said| said.starts_with("2 shards share CPU 1;"))),
            "{said:?}"
        );
    }
}
