//! Command lines as Machnet's users type them: `-` and `_` are alike in the names of flags, and one dash is as good as
//! two (gflags allows both).

use std::ffi::OsString;
use std::time::Duration;

/// Rewrites the names of all flags to the form `--with-dashes`; values stay as they are, and so does everything after a
/// lone `--`. One dash and one letter is a short flag and stays, too.
pub fn normalize(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut only_values = false;
    args.into_iter()
        .map(|arg| {
            only_values |= arg == "--";
            match arg.to_str() {
                Some(text) if !only_values => normalized(text).map_or(arg, OsString::from),
                _ => arg,
            }
        })
        .collect()
}

/// The normal form of a flag; `None` if `arg` is no long flag.
fn normalized(arg: &str) -> Option<String> {
    let named = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    let (name, value) = named.split_at(named.find('=').unwrap_or(named.len()));
    let is_long = name.len() > 1 && name.starts_with(|first: char| first.is_ascii_alphabetic());
    is_long.then(|| format!("--{}{value}", name.replace('_', "-")))
}

/// The value of a flag that is a length of time in seconds, as `0.5`.
///
/// # Errors
/// What to write instead.
pub fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|duration| !duration.is_zero()).ok_or("give a number of seconds above 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_above_zero() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for text in ["0", "-1", "nan", "inf", "1s", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    fn to(arg: &str) -> String {
        normalize([arg.into()]).remove(0).into_string().unwrap()
    }

    #[test]
    fn dashes_and_underscores_are_alike_in_names_only() {
        assert_eq!(to("--msg_size"), "--msg-size");
        assert_eq!(to("-msg_size=64"), "--msg-size=64");
        assert_eq!(to("--config_file=a_b/c_d.json"), "--config-file=a_b/c_d.json");
        assert_eq!(to("a_value"), "a_value");
    }

    #[test]
    fn what_is_no_long_flag_stays() {
        for arg in ["-h", "--", "-", "-1", "-10_000", ""] {
            assert_eq!(to(arg), arg);
        }
        let after = normalize(["--".into(), "--a_b".into()]);
        assert_eq!(after, ["--", "--a_b"].map(OsString::from));
    }
}
