//! Command lines as Machnet's users type them: `-` and `_` are alike in the names of flags, and one dash is as good as
//! two (gflags allows both).

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::time::Duration;

use machnet_core::addr;

/// Rewrites the names of all flags to the form `--with-dashes`; values stay as they are, and so does everything after a
/// lone `--`. One dash and one letter is a short flag and stays, too.
pub fn normalize(args: impl IntoIterator<Item: Into<OsString>>) -> Vec<OsString> {
    let mut only_values = false;
    args.into_iter()
        .map(|arg| {
            let arg: OsString = arg.into();
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

/// The value of a flag that is an address.
///
/// # Errors
/// What is wrong with it.
pub fn ipv4(text: &str) -> Result<Ipv4Addr, String> {
    match text.parse() {
        Ok(ip) => addr::ipv4(ip).map_err(|error| error.to_string()),
        Err(_) => text.parse::<Ipv4Addr>().map_err(|error| error.to_string()),
    }
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

    #[test]
    fn an_address_is_ipv4_or_told_so() {
        assert_eq!(ipv4("10.0.0.1"), Ok(Ipv4Addr::new(10, 0, 0, 1)));
        assert!(
            ipv4("fe80::1").is_err_and(|why| why.starts_with("fe80::1 is an IPv6 address, which machnet-shards does"))
        );
        assert_eq!(ipv4("10.0.0"), Err("invalid IPv4 address syntax".to_owned()));
    }

    fn to(arg: &str) -> String {
        normalize([arg]).remove(0).into_string().unwrap()
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
        let after = normalize(["--", "--a_b"]);
        assert_eq!(after, ["--", "--a_b"].map(OsString::from));
    }
}
