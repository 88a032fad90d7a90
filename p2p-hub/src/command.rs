//! A command line, as it comes over SSH, to what is asked for.

use std::time::Duration;

use crate::flags::{Default, Flag, Flags, usage};
use crate::limits::MAX_COMMAND_BYTES;
use crate::registry::{Direction, Dispatch};
use crate::topics::AccessList;

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Ls,
    User,
    Join(Join),
}

/// `pipe`, `pub` or `sub` with its flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Join {
    pub(crate) direction: Direction,
    /// `None` asks for a topic with a random name.
    pub(crate) topic: Option<String>,
    /// `-a`
    pub(crate) access: AccessList,
    /// `-p`
    pub(crate) public: bool,
    /// `-r`
    pub(crate) replay: bool,
    /// `-k`
    pub(crate) keep_alive: bool,
    /// `-c`: no status messages.
    pub(crate) clean: bool,
    /// `-d`
    pub(crate) dispatch: Dispatch,
    /// `-b`
    pub(crate) block: bool,
    /// `-e`
    pub(crate) empty: bool,
    /// `-t`
    pub(crate) patience: Duration,
}

/// Why a command line is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadCommand {
    /// For standard output: what is wrong with the flags, and the usage.
    pub(crate) explanation: String,
    /// For standard error.
    pub(crate) reason: String,
}

impl Command {
    /// Parses a command line; an empty one asks for help.
    pub(crate) fn parse(line: &[u8]) -> Result<Command, BadCommand> {
        if line.len() > MAX_COMMAND_BYTES {
            return Err(BadCommand::because(format!("command line too long: at most {MAX_COMMAND_BYTES} bytes")));
        }
        let line =
            std::str::from_utf8(line).map_err(|_| BadCommand::because("the command line is not UTF-8".into()))?;
        let words = split(line)?;
        let Some((name, rest)) = words.split_first() else {
            return Ok(Command::Help);
        };
        match name.as_str() {
            "help" => Ok(Command::Help),
            "ls" => Ok(Command::Ls),
            "user" => Ok(Command::User),
            "pipe" => join(Direction::Pipe, "pipe", PIPE_FLAGS, rest),
            "pub" => join(Direction::Pub, "pub", PUB_FLAGS, rest),
            "sub" => join(Direction::Sub, "sub", SUB_FLAGS, rest),
            "monitor" | "status" | "uptime" | "rss" => {
                Err(BadCommand::because(format!("this hub has no monitors: {name} is not supported")))
            }
            _ => Err(BadCommand::because(format!("unknown command {name:?}: try help"))),
        }
    }
}

impl BadCommand {
    pub(crate) fn because(reason: String) -> BadCommand {
        BadCommand { explanation: String::new(), reason }
    }
}

/// The text of `help`; `target` is how this hub is reached, such as `-p 2222 localhost`.
pub(crate) fn help(target: &str) -> String {
    HELP.replace("{target}", target).replace('\n', "\r\n")
}

const HELP: &str = "\
Command: ssh {target} <command> [args...]

A board of one's own. Send messages through topics that you name. Topics
are private to the user that the SSH key belongs to, unless an access
list (-a) or -p opens them. A publisher (\"pub\") sends to all
subscribers (\"sub\"), and waits for the first one. A \"pipe\" is both at
once: what one client writes, all others read.

Commands:
  help                        Show this help message
  ls                          List your active topics
  user                        Show your name, id and since when the hub knows you
  pub <topic> [flags]         Publish messages to a topic
  sub <topic> [flags]         Subscribe to messages from a topic
  pipe <topic> [flags]        Bidirectional messaging between clients

Use \"ssh {target} <command> -h\" for help on a specific command.

";

const ACCESS: Flag = Flag {
    name: "a",
    default: Default::Text(""),
    usage: "Comma separated list of user names or ssh-key fingerprints to allow access to a topic",
};
const CLEAN: Flag = Flag { name: "c", default: Default::Switch(false), usage: "Don't send status messages" };
const DISPATCHER: Flag =
    Flag { name: "d", default: Default::Text("multicast"), usage: "Type of dispatcher (e.g. multicast, round_robin)" };

const PIPE_FLAGS: &[Flag] = &[
    ACCESS,
    CLEAN,
    DISPATCHER,
    Flag { name: "p", default: Default::Switch(false), usage: "Pipe to a public topic" },
    Flag { name: "r", default: Default::Switch(false), usage: "Replay messages to the client that sent it" },
];

const PUB_FLAGS: &[Flag] = &[
    ACCESS,
    Flag { name: "b", default: Default::Switch(true), usage: "Block writes until a subscriber is available" },
    CLEAN,
    DISPATCHER,
    Flag { name: "e", default: Default::Switch(false), usage: "Send an empty message to subs" },
    Flag { name: "p", default: Default::Switch(false), usage: "Publish message to public topic" },
    Flag {
        name: "t",
        default: Default::Span(Duration::from_secs(30 * 24 * 3600)),
        usage: "Timeout as a Go duration to block for a subscriber to be available. Valid time units are 'ns', \
                'us' (or 'µs'), 'ms', 's', 'm', 'h'. Default is 30 days.",
    },
];

const SUB_FLAGS: &[Flag] = &[
    ACCESS,
    CLEAN,
    Flag {
        name: "k",
        default: Default::Switch(false),
        usage: "Keep the subscription alive even after the publisher has died",
    },
    Flag { name: "p", default: Default::Switch(false), usage: "Subscribe to a public topic" },
];

fn join(direction: Direction, name: &str, flags: &'static [Flag], words: &[String]) -> Result<Command, BadCommand> {
    let (mut topic, words) = match words.split_first() {
        Some((topic, rest)) if !topic.starts_with('-') => (topic.clone(), rest),
        _ => (String::new(), words),
    };
    let invalid = |explanation| BadCommand { explanation, reason: "invalid cmd args".into() };
    let parsed = Flags::parse(flags, words).map_err(|explanation| invalid(explanation + &usage(name, flags)))?;
    if topic == "help" {
        return Err(invalid(usage(name, flags)));
    }
    if let ([only], true) = (parsed.rest.as_slice(), topic.is_empty()) {
        topic = only.clone();
    }
    if topic.is_empty() && direction == Direction::Sub {
        return Err(BadCommand::because("topic is required".into()));
    }
    Ok(Command::Join(Join {
        direction,
        topic: (!topic.is_empty()).then_some(topic),
        access: AccessList::parse(parsed.text("a")).map_err(BadCommand::because)?,
        public: parsed.switch("p"),
        replay: parsed.switch("r"),
        keep_alive: parsed.switch("k"),
        clean: parsed.switch("c"),
        dispatch: match parsed.text("d") {
            "round_robin" => Dispatch::RoundRobin,
            _ => Dispatch::Multicast,
        },
        block: parsed.switch("b"),
        empty: parsed.switch("e"),
        patience: parsed.span("t"),
    }))
}

/// Words are separated by blanks; quotes, single or double, keep blanks together and are taken off.
fn split(line: &str) -> Result<Vec<String>, BadCommand> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(BadCommand::because("a quote is not closed".into()));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, BadCommand> {
        Command::parse(line.as_bytes())
    }

    fn joined(line: &str) -> Join {
        match parse(line) {
            Ok(Command::Join(join)) => join,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_command_lines_that_people_use_parse() {
        let host = joined("pipe p2p -a bob,carol,diana");
        assert_eq!(host.direction, Direction::Pipe);
        assert_eq!(host.topic.as_deref(), Some("p2p"));
        assert_eq!(host.access.entries(), ["bob", "carol", "diana"]);
        assert_eq!(joined("pipe p2p -a=bob,carol,diana"), host);
        assert_eq!(joined("pipe -a 'bob, carol,diana' p2p"), host);
        assert_eq!(joined("  pipe  \"p2p\"  -a bob,carol,diana "), host);
        assert_eq!(joined("pipe alice/p2p").topic.as_deref(), Some("alice/p2p"));
        assert_eq!(joined("pipe").topic, None);
        let flags = joined("pipe x -r -p -c -d round_robin");
        assert!(flags.replay && flags.public && flags.clean && !flags.block);
        assert_eq!(flags.dispatch, Dispatch::RoundRobin);
        assert!(joined("sub x -k").keep_alive);
        let publish = joined("pub x -b=false -e -t 5s");
        assert!(publish.empty && !publish.block);
        assert_eq!(publish.patience, Duration::from_secs(5));
        assert!(joined("pub x").block);
        for (line, expected) in [("", Command::Help), ("help", Command::Help), ("ls", Command::Ls)] {
            assert_eq!(parse(line), Ok(expected));
        }
    }

    #[test]
    fn bad_command_lines_say_why() {
        let table = [
            ("frobnicate", "unknown command \"frobnicate\": try help"),
            ("monitor x 1h", "this hub has no monitors: monitor is not supported"),
            ("pipe x -z", "invalid cmd args"),
            ("pipe help", "invalid cmd args"),
            ("sub", "topic is required"),
            ("pipe 'x", "a quote is not closed"),
        ];
        for (line, reason) in table {
            assert_eq!(parse(line).unwrap_err().reason, reason, "{line}");
        }
        let explanation = parse("pipe x -z").unwrap_err().explanation;
        assert!(explanation.starts_with("flag provided but not defined: -z\nUsage: pipe <topic>"));
        assert!(Command::parse(b"pipe \xff").is_err());
        assert!(Command::parse(&vec![b'x'; MAX_COMMAND_BYTES + 1]).is_err());
    }
}
