//! Sets of CPUs.

use std::fmt;
use std::io;

/// A set of CPUs, of any size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuMask {
    /// Ascending, each once.
    cpus: Vec<usize>,
}

impl CpuMask {
    /// Reads a mask as Machnet writes it: hexadecimal digits of any number, `0x` before them or not; bit i is CPU i.
    /// None for anything else, and for a mask without any CPU.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        let mut cpus = Vec::new();
        for (index, digit) in digits.chars().rev().enumerate() {
            let bits = digit.to_digit(16)?;
            cpus.extend((0..4).filter(|bit| bits & (1 << bit) != 0).map(|bit| 4 * index + bit));
        }
        (!cpus.is_empty()).then_some(Self { cpus })
    }

    /// Reads a list as the kernel writes it, such as `0-3,8`. None for anything else, and for an empty list.
    pub fn from_ranges(text: &str) -> Option<Self> {
        let mut cpus = Vec::new();
        for range in text.trim().split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
        }
        cpus.sort_unstable();
        cpus.dedup();
        (!cpus.is_empty()).then_some(Self { cpus })
    }

    /// The CPUs of this host that are online.
    ///
    /// # Errors
    /// The kernel's list cannot be read, or is not one.
    pub fn online() -> io::Result<Self> {
        let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
        Self::from_ranges(&text).ok_or_else(|| io::Error::other(format!("{text:?} is not a list of CPUs")))
    }

    /// The CPUs on which the calling thread may run: what its cpuset and its affinity leave of those online.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn allowed() -> io::Result<Self> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        if cpus.is_empty() { Err(io::Error::other("the affinity is empty")) } else { Ok(Self { cpus }) }
    }

    /// The CPUs, ascending.
    pub fn cpus(&self) -> impl Iterator<Item = usize> {
        self.cpus.iter().copied()
    }

    /// Whether `cpu` is one of them.
    pub fn contains(&self, cpu: usize) -> bool {
        self.cpus.binary_search(&cpu).is_ok()
    }

    /// How many there are; never none.
    pub fn count(&self) -> usize {
        self.cpus.len()
    }

    /// The CPUs that are also in `others`; `None` without any.
    pub fn within(&self, others: &Self) -> Option<Self> {
        self.filtered(|cpu| others.contains(cpu))
    }

    /// The CPUs that are not in `others`; `None` without any.
    pub fn without(&self, others: &Self) -> Option<Self> {
        self.filtered(|cpu| !others.contains(cpu))
    }

    fn filtered(&self, keep: impl Fn(usize) -> bool) -> Option<Self> {
        let cpus: Vec<usize> = self.cpus().filter(|cpu| keep(*cpu)).collect();
        (!cpus.is_empty()).then_some(Self { cpus })
    }

    /// The set as people write it: `0-3,8`.
    pub fn ranges(&self) -> String {
        let runs = self.cpus.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
            [only] => only.to_string(),
            [first, .., last] => format!("{first}-{last}"),
            [] => String::new(),
        });
        runs.collect::<Vec<_>>().join(",")
    }
}

/// The set as `cpu_mask` holds it: `0x3`.
impl fmt::Display for CpuMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.cpus.last().map_or(1, |highest| highest / 4 + 1);
        let digit = |index| (0..4).filter(|bit| self.contains(4 * index + bit)).map(|bit| 1_u32 << bit).sum::<u32>();
        f.write_str("0x")?;
        (0..digits).rev().try_for_each(|index| write!(f, "{:x}", digit(index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_of_any_length_names_its_cpus() {
        let cpus = |text: &str| CpuMask::from_hex(text).map(|mask| mask.cpus().collect::<Vec<_>>());
        assert_eq!(cpus("0x3"), Some(vec![0, 1]));
        assert_eq!(cpus("F0"), Some(vec![4, 5, 6, 7]));
        assert_eq!(cpus(&format!("0X8{}1", "0".repeat(31))), Some(vec![0, 131]));
        for bad in ["", "0x", "0x0", "000", "3g", "-1", " 3", "0x 3"] {
            assert_eq!(cpus(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_mask_is_written_as_it_was_read() {
        for text in ["0x1", "0x3", "0xf0", "0x800000000000000000000000000000001"] {
            assert_eq!(CpuMask::from_hex(text).expect("a mask").to_string(), text);
        }
        assert_eq!(CpuMask::from_hex("0xf10d").expect("a mask").ranges(), "0,2-3,8,12-15");
        assert_eq!(CpuMask::from_ranges("12-15,0,2-3,8\n"), CpuMask::from_hex("f10d"));
        assert_eq!(CpuMask::from_ranges(""), None);
        assert_eq!(CpuMask::from_ranges("0-"), None);
    }

    #[test]
    fn sets_are_divided() {
        let set = |ranges| CpuMask::from_ranges(ranges);
        let (mask, here) = (set("0-3,8").expect("a set"), set("2-9").expect("a set"));
        assert_eq!((mask.within(&here), mask.without(&here)), (set("2-3,8"), set("0-1")));
        assert_eq!((mask.within(&set("4-7").expect("a set")), mask.without(&mask)), (None, None));
        assert_eq!(mask.count(), 5);
    }

    #[test]
    fn what_is_allowed_is_online() {
        let (allowed, online) = (CpuMask::allowed().expect("the kernel says"), CpuMask::online().expect("it says"));
        assert_eq!(allowed.without(&online), None);
    }
}
