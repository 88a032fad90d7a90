//! Times as GNU parallel takes them: `30` is in seconds, `1.5m`, `1h30m` and `2d` have units; and as the other commands do: `500ms`, `5min`.

use std::time::Duration;

/// Longer than anybody waits, and short enough to reckon with, seconds.
const LONGEST_S: f64 = 1e10;

/// A time.
///
/// # Errors
/// What it should look like.
pub fn parse(text: &str) -> Result<Duration, String> {
    let seconds = seconds(text);
    match seconds {
        Some(seconds) if seconds <= LONGEST_S => Ok(Duration::from_secs_f64(seconds)),
        Some(_) => Err("that is longer than anybody waits".to_owned()),
        None => humantime::parse_duration(text)
            .map_err(|_| "a time is a number of seconds, or has units: 30, 30s, 1.5m, 1h30m, 2d, 500ms".to_owned()),
    }
}

/// `--timeout`; 0 is none, as in GNU parallel.
///
/// # Errors
/// As [`parse`], and for `200%`.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    if text.ends_with('%') {
        let words = "a percentage of what other tasks took is not known here, for a worker must know the limit when a task starts: \
             name a time, as 30s or 5m";
        return Err(words.to_owned());
    }
    parse(text)
}

/// `--delay`.
///
/// # Errors
/// As [`parse`], and for `1auto`.
pub fn parse_delay(text: &str) -> Result<Duration, String> {
    if text.ends_with("auto") {
        return Err("a delay that changes by itself is not known here: name a time, as 0.1 or 2s".to_owned());
    }
    parse(text)
}

fn seconds(text: &str) -> Option<f64> {
    if let Some(seconds) = decimal(text) {
        return Some(seconds);
    }
    let mut sum = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| c != '.' && !c.is_ascii_digit())?);
        let unit = match after.as_bytes().first()?.to_ascii_lowercase() {
            b's' => 1.0,
            b'm' => 60.0,
            b'h' => 3600.0,
            b'd' => 86_400.0,
            _ => return None,
        };
        sum += decimal(number)? * unit;
        rest = &after[1..];
    }
    (!text.is_empty()).then_some(sum)
}

/// Digits, perhaps with a point and digits before or after it.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_parallel_and_of_the_other_commands() {
        let table = [
            ("0", 0),
            ("30", 30_000),
            ("0.25", 250),
            (".5", 500),
            ("30s", 30_000),
            ("1.5m", 90_000),
            ("5M", 300_000),
            ("1h30m", 5_400_000),
            ("1d2h3m4s", 93_784_000),
            ("500ms", 500),
            ("5min", 300_000),
            ("1h 30m", 5_400_000),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        for text in ["", " ", "x", "-1", "1x", "1e3", "inf", "NaN", "1.2.3", "s", "m5", "1h30", "99999999999", "9e99d"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse_timeout("200%").unwrap_err().contains("percentage"));
        assert!(parse_delay("1auto").unwrap_err().contains("by itself"));
    }
}
