//! Flags as Go's `flag` package parses and explains them, because people's command lines rely on it.
//!
//! `-a bob` and `-a=bob` are the same, so are `-a` and `--a`; a switch takes a value only after `=`; the first word that
//! is no flag ends the flags, so does `--`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// One flag of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    /// Its name without the dash.
    pub(crate) name: &'static str,
    pub(crate) default: Default,
    pub(crate) usage: &'static str,
}

/// A flag's type, and its value where it is not given.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Default {
    Switch(bool),
    Text(&'static str),
    Span(Duration),
}

/// The flags of one command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flags {
    given: BTreeMap<&'static str, Value>,
    /// The words after the flags.
    pub(crate) rest: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Switch(bool),
    Text(String),
    Span(Duration),
}

impl Flags {
    /// Parses `words`. An error is what Go prints before the usage: the reason, or nothing where help was asked for.
    pub(crate) fn parse(flags: &'static [Flag], words: &[String]) -> Result<Flags, String> {
        let mut given: BTreeMap<_, _> = flags.iter().map(|flag| (flag.name, Value::from(flag.default))).collect();
        let mut words = words.iter();
        let mut rest = Vec::new();
        while let Some(word) = words.next() {
            let bare = match word.strip_prefix('-') {
                None | Some("") => {
                    rest.push(word.clone());
                    break;
                }
                Some("-") => break,
                Some(name) => name.strip_prefix('-').unwrap_or(name),
            };
            if bare.is_empty() || bare.starts_with(['-', '=']) {
                return Err(format!("bad flag syntax: {word}\n"));
            }
            let (name, inline) = match bare.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (bare, None),
            };
            let Some(flag) = flags.iter().find(|flag| flag.name == name) else {
                return Err(match name {
                    "h" | "help" => String::new(),
                    _ => format!("flag provided but not defined: -{name}\n"),
                });
            };
            let value = match (flag.default, inline) {
                (Default::Switch(_), None) => Value::Switch(true),
                (Default::Switch(_), Some(text)) => Value::Switch(
                    parse_bool(&text)
                        .ok_or_else(|| format!("invalid boolean value {text:?} for -{name}: parse error\n"))?,
                ),
                (default, inline) => {
                    let text = inline
                        .or_else(|| words.next().cloned())
                        .ok_or_else(|| format!("flag needs an argument: -{name}\n"))?;
                    match default {
                        Default::Span(_) => Value::Span(
                            parse_span(&text)
                                .ok_or_else(|| format!("invalid value {text:?} for flag -{name}: parse error\n"))?,
                        ),
                        _ => Value::Text(text),
                    }
                }
            };
            given.insert(flag.name, value);
        }
        rest.extend(words.cloned());
        Ok(Flags { given, rest })
    }

    /// A switch; false for a name that is none.
    pub(crate) fn switch(&self, name: &str) -> bool {
        matches!(self.given.get(name), Some(Value::Switch(true)))
    }

    /// A text; empty for a name that is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    /// A length of time; zero for a name that is none.
    pub(crate) fn span(&self, name: &str) -> Duration {
        match self.given.get(name) {
            Some(Value::Span(span)) => *span,
            _ => Duration::ZERO,
        }
    }
}

impl From<Default> for Value {
    fn from(default: Default) -> Value {
        match default {
            Default::Switch(on) => Value::Switch(on),
            Default::Text(text) => Value::Text(text.to_owned()),
            Default::Span(span) => Value::Span(span),
        }
    }
}

/// The usage of a command, flags in the order of their names.
pub(crate) fn usage(command: &str, flags: &[Flag]) -> String {
    let mut text = format!("Usage: {command} <topic> [args...]\nArgs:\n");
    for flag in flags {
        let (kind, default) = match flag.default {
            Default::Switch(true) => (None, " (default true)".to_owned()),
            Default::Switch(false) => (None, String::new()),
            Default::Text("") => (Some("string"), String::new()),
            Default::Text(value) => (Some("string"), format!(" (default {value:?})")),
            Default::Span(value) => (Some("duration"), format!(" (default {})", format_span(value))),
        };
        // Go sets the explanation beside the flag only where both fit into its tab stop.
        let _ = match kind {
            None => writeln!(text, "  -{}\t{}{default}", flag.name, flag.usage),
            Some(kind) => {
                writeln!(text, "  -{} {kind}\n    \t{}{default}", flag.name, flag.usage)
            }
        };
    }
    text
}

/// Formats whole seconds as Go does: `720h0m0s`, `1m30s`, `0s`.
pub(crate) fn format_span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let millis = span.subsec_millis();
    let seconds = if millis == 0 {
        format!("{seconds}s")
    } else {
        let fraction = format!("{millis:03}");
        format!("{seconds}.{}s", fraction.trim_end_matches('0'))
    };
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, _) => format!("{minutes}m{seconds}"),
        _ => format!("{hours}h{minutes}m{seconds}"),
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A Go duration without sign: numbers with units, such as `1h30m` or `1.5s`; `0` needs no unit.
fn parse_span(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    // Go's durations end at 292 years.
    let longest = i64::MAX as f64 / 1e9;
    (!text.is_empty() && seconds <= longest).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag { name: "a", default: Default::Text(""), usage: "A list" },
        Flag { name: "b", default: Default::Switch(true), usage: "Block" },
        Flag { name: "d", default: Default::Text("multicast"), usage: "Kind" },
        Flag { name: "t", default: Default::Span(Duration::from_secs(720 * 3600)), usage: "Time" },
    ];

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn flags_parse_as_in_go() {
        let table: [(&str, &str, bool, &[&str]); 9] = [
            ("", "", true, &[]),
            ("-a bob,carol", "bob,carol", true, &[]),
            ("-a=bob,carol x", "bob,carol", true, &["x"]),
            ("--a=bob --b=f", "bob", false, &[]),
            ("-a -b", "-b", true, &[]),
            ("-b=0 -a x=y", "x=y", false, &[]),
            ("-b false", "", true, &["false"]),
            ("-- -a bob", "", true, &["-a", "bob"]),
            ("x -a bob", "", true, &["x", "-a", "bob"]),
        ];
        for (line, a, b, rest) in table {
            let flags = Flags::parse(FLAGS, &words(line)).unwrap();
            assert_eq!(flags.text("a"), a, "{line}");
            assert_eq!(flags.switch("b"), b, "{line}");
            assert_eq!(flags.rest, rest, "{line}");
        }
    }

    #[test]
    fn bad_flags_are_named_as_in_go() {
        let table = [
            ("-x", "flag provided but not defined: -x\n"),
            ("-a", "flag needs an argument: -a\n"),
            ("-b=maybe", "invalid boolean value \"maybe\" for -b: parse error\n"),
            ("-t 5", "invalid value \"5\" for flag -t: parse error\n"),
            ("---a", "bad flag syntax: ---a\n"),
            ("-=x", "bad flag syntax: -=x\n"),
            ("-h", ""),
        ];
        for (line, expected) in table {
            let error = Flags::parse(FLAGS, &words(line)).unwrap_err();
            assert_eq!(error, expected, "{line}");
        }
    }

    #[test]
    fn durations_parse_and_print_as_in_go() {
        let table = [
            ("720h", Some((2_592_000_000, "720h0m0s"))),
            ("1h30m", Some((5_400_000, "1h30m0s"))),
            ("1.5s", Some((1_500, "1.5s"))),
            ("250ms", Some((250, "0.25s"))),
            ("0", Some((0, "0s"))),
            ("", None),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("1..5s", None),
            ("999999999h", None),
        ];
        for (text, expected) in table {
            let span = parse_span(text);
            let got = span.map(|span| (span.as_millis(), format_span(span)));
            assert_eq!(got, expected.map(|(millis, shown)| (millis, shown.to_owned())), "{text}");
        }
    }

    #[test]
    fn usage_is_laid_out_as_in_go() {
        assert_eq!(
            usage("pub", FLAGS),
            "Usage: pub <topic> [args...]\nArgs:\n  -a string\n    \tA list\n  -b\tBlock (default true)\n  \
             -d string\n    \tKind (default \"multicast\")\n  -t duration\n    \tTime (default 720h0m0s)\n"
        );
    }
}
