//! Which CPUs of the masks can be used: a mask may name more than there are, as Machnet's documented default does.

use super::interface::place_shards;
use super::{Config, ConfigError, CpuMask};

/// [`settle`] with the CPUs of this host on which the calling thread may run.
///
/// # Errors
/// The first mask without a CPU that can be used.
pub fn settle_here(config: &mut Config) -> Result<Vec<Option<String>>, ConfigError> {
    match CpuMask::allowed() {
        Ok(allowed) => settle(config, &CpuMask::online().unwrap_or_else(|_| allowed.clone()), &allowed),
        Err(error) => {
            let used =
                |mask| format!("cpu_mask is \"{mask}\", and is used as it is: the kernel names no CPUs ({error})");
            Ok(config.interfaces.iter().map(|interface| interface.cpu_mask.as_ref().map(used)).collect())
        }
    }
}

/// Leaves those CPUs in the masks that exist and on which this process may run, and gives the shards their CPUs
/// among them. For each interface, what the user should know: which CPUs of its mask are not used, and why.
///
/// # Errors
/// The first mask without a CPU that can be used.
pub fn settle(config: &mut Config, online: &CpuMask, allowed: &CpuMask) -> Result<Vec<Option<String>>, ConfigError> {
    let mut interfaces = config.interfaces.clone();
    let mut warnings = Vec::new();
    for interface in &mut interfaces {
        let left_out = interface.cpu_mask.as_ref().and_then(|mask| Some((mask.without(allowed)?, mask.clone())));
        let Some((left_out, mask)) = left_out else {
            warnings.push(None);
            continue;
        };
        let why = why_unusable(&left_out, online);
        let Some(usable) = mask.within(allowed) else {
            let among = if allowed.count() == 1 { "" } else { "among " };
            let remedy = format!("{why}, choose {among}{}", named(allowed));
            return Err(config.mistake(interface, "cpu_mask", &format!("\"{mask}\""), &remedy));
        };
        let are = if usable.count() == 1 { "is" } else { "are" };
        warnings.push(Some(format!("cpu_mask is \"{mask}\": {why}, {} {are} used", named(&usable))));
        interface.cpu_mask = Some(usable);
    }
    if warnings.iter().any(Option::is_some) {
        place_shards(&mut interfaces);
        config.interfaces = interfaces;
    }
    Ok(warnings)
}

/// Why nothing can run on `cpus`, on none of which this process may run.
fn why_unusable(cpus: &CpuMask, online: &CpuMask) -> String {
    let missing = cpus.without(online).map(|missing| {
        let does = if missing.count() == 1 { "does" } else { "do" };
        format!("{} {does} not exist here", named(&missing))
    });
    let forbidden = cpus
        .within(online)
        .map(|forbidden| format!("this process may not run on {} (its cpuset or affinity)", named(&forbidden)));
    [missing, forbidden].into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

fn named(cpus: &CpuMask) -> String {
    format!("CPU{} {}", if cpus.count() == 1 { "" } else { "s" }, cpus.ranges())
}
