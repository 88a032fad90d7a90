//! What the server's `ls` prints, read strictly: a client can put text of its own choice into its own line, so a topic that
//! shows up twice or a line of no known form is taken for an attack, not for noise.
#![warn(clippy::disallowed_methods)]

use std::net::SocketAddr;

use p2p_proto::ids::UserName;
use p2p_proto::limits;

use crate::session::CommandOutput;

/// Characters of a name that are shown: a user's name and more than a key's name usually has.
const SHOWN_CHARS: usize = 2 * limits::USER_BYTES;

/// The topics that the caller owns, as `ls` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// In the server's order; each name once.
    pub topics: Vec<ListedTopic>,
}

/// One topic and who is connected to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTopic {
    /// The full name, owner first.
    pub name: String,
    /// The user names or key fingerprints that may enter besides the owner; `None` when no list is stored.
    pub access: Option<Vec<String>>,
    /// Those connected with `pipe`, both ways.
    pub pipes: Vec<ListedClient>,
    /// Those connected with `pub` or `sub`, one way.
    pub others: Vec<ListedClient>,
}

/// One connection, as the server authenticated it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedClient {
    /// The server's id of the connection.
    pub id: String,
    /// The user's name, as far as one can be long; what is no letter, digit, `-` or `_` is a `?`. Where a key has a name, pico.sh puts it
    /// behind, after a `-`; see [`ListedClient::is`].
    pub user: String,
    /// The address as the server sees it, if it shows one.
    pub address: Option<SocketAddr>,
}

/// An answer of `ls` that must not be used; says which line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the board's list of topics cannot be trusted: {0}")]
pub struct ListingError(String);

impl Listing {
    /// Reads what `ls` has printed. Of a part of it nothing could be told: who is missing in it may be in the rest.
    pub(crate) fn read(output: &CommandOutput) -> Result<Self, ListingError> {
        if !output.whole {
            return Err(ListingError("it is longer than what is read of it".to_owned()));
        }
        Self::parse(&output.stdout)
    }

    /// Reads the output of `ls`.
    ///
    /// # Errors
    /// A topic that is listed twice, any line that has none of the known forms, text behind an empty line, and a last line without its end.
    pub fn parse(text: &str) -> Result<Self, ListingError> {
        let mut listing = Self::default();
        let mut in_pipes = false;
        let mut ended = false;
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(ListingError("its last line is cut off".to_owned()));
        }
        for line in text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)) {
            let odd =
                || ListingError(format!("the line {:?} has no known form", line.chars().take(120).collect::<String>()));
            if ended && !line.is_empty() {
                return Err(ListingError("it goes on behind an empty line".to_owned()));
            }
            match line {
                "" => ended = true,
                "Channel Information" | "no pubsub channels found" => {}
                "  Pipes:" => in_pipes = true,
                "  Pubs:" | "  Subs:" | "  Waiting Pubs:" => in_pipes = false,
                _ if line.starts_with("- ") => {
                    let topic = header(line).ok_or_else(odd)?;
                    if listing.topic(&topic.name).is_some() {
                        return Err(ListingError(format!("the topic {:?} is listed twice", topic.name)));
                    }
                    listing.topics.push(topic);
                    in_pipes = false;
                }
                _ => {
                    let client = client(line).ok_or_else(odd)?;
                    let topic = listing.topics.last_mut().ok_or_else(odd)?;
                    if in_pipes { topic.pipes.push(client) } else { topic.others.push(client) }
                }
            }
        }
        Ok(listing)
    }

    /// The topic of this full name.
    pub fn topic(&self, name: &str) -> Option<&ListedTopic> {
        self.topics.iter().find(|topic| topic.name == name)
    }

    /// The topic that `asked` means for its owner: the server puts the owner's name in front where it is missing.
    pub(crate) fn owned(&self, asked: &str) -> Option<&ListedTopic> {
        let with_owner = |topic: &&ListedTopic| topic.name.split_once('/').is_some_and(|(_, name)| name == asked);
        self.topic(asked).or_else(|| self.topics.iter().find(with_owner))
    }
}

impl ListedTopic {
    /// Everybody who is connected, whichever way.
    pub fn clients(&self) -> impl Iterator<Item = &ListedClient> {
        self.pipes.iter().chain(&self.others)
    }

    /// Those who are connected and neither own the topic nor are on its list: the server lets some of them in by mistake.
    pub(crate) fn intruders<'a>(&'a self, listed: &'a [UserName]) -> impl Iterator<Item = &'a ListedClient> {
        let owner = self.name.split('/').next().unwrap_or_default();
        self.clients().filter(move |client| !client.is(owner) && !listed.iter().any(|user| client.is(user.as_str())))
    }

    /// Whether everybody in `wanted` may enter. The owner may, listed or not.
    pub(crate) fn admits<'a>(&self, mut wanted: impl Iterator<Item = &'a str>) -> bool {
        let owner = self.name.split('/').next().unwrap_or_default();
        let listed = self.access.as_deref().unwrap_or_default();
        wanted.all(|user| user == owner || listed.iter().any(|entry| entry == user))
    }
}

impl ListedClient {
    /// Whether this is the user of that account.
    ///
    /// `bob-laptop` is pico.sh's bob with a key that has a name: an account's name has no `-` there. A hub has accounts with a `-`, but none
    /// that starts with the name of another one and a `-`.
    pub fn is(&self, user: &str) -> bool {
        let behind = self.user.strip_prefix(user);
        behind.is_some_and(|rest| rest.is_empty() || (rest.starts_with('-') && !user.contains('-')))
    }
}

/// `- NAME:` or `- NAME: (Access List: A, B)`.
fn header(line: &str) -> Option<ListedTopic> {
    let rest = line.strip_prefix("- ")?;
    let (name, access) = match rest.strip_suffix(':') {
        Some(name) => (name, None),
        None => {
            let (name, list) = rest.strip_suffix(')')?.rsplit_once(": (Access List: ")?;
            (name, Some(list.split(',').map(|user| user.trim().to_owned()).collect()))
        }
    };
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
    plain.then(|| ListedTopic { name: name.to_owned(), access, pipes: Vec::new(), others: Vec::new() })
}

/// `  - UUID (USER[-KEYNAME]@IP:PORT)`.
fn client(line: &str) -> Option<ListedClient> {
    let (id, rest) = line.strip_prefix("  - ")?.split_once(" (")?;
    let (name, address) = rest.strip_suffix(')')?.rsplit_once('@')?;
    let known = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '?' };
    let user: String = name.chars().take(SHOWN_CHARS).map(known).collect();
    let plain = id.chars().all(|c| c.is_ascii_hexdigit() || c == '-') && !id.is_empty();
    let plain = plain && !user.is_empty() && !user.starts_with('?');
    plain.then(|| ListedClient { id: id.to_owned(), user, address: address.parse().ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "Channel Information\r\n- alice/friends/future.p2p: (Access List: bob, carol)\r\n  Pipes:\r\n  \
        - 2c6483d6-9491-4cc8-9707-3e6bc85bc30b (alice@1.2.3.4:6543)\r\n  - 0a (bob@[::1]:9)\r\n- alice/x:\r\n  Subs:\r\n  - 0b (alice@1.1.1.1:1)\r\n";

    #[test]
    fn topics_lists_and_members_are_read() {
        let listing = Listing::parse(SHOWN).unwrap();
        let friends = listing.owned("friends/future.p2p").unwrap();
        assert_eq!(friends.access, Some(vec!["bob".to_owned(), "carol".to_owned()]));
        assert_eq!(friends.pipes.iter().map(|pipe| pipe.user.as_str()).collect::<Vec<_>>(), ["alice", "bob"]);
        assert_eq!(friends.pipes[0].address, Some("1.2.3.4:6543".parse().unwrap()));
        assert!(friends.admits(["alice", "carol", "bob"].into_iter()) && !friends.admits(["dave"].into_iter()));
        let other = listing.topic("alice/x").unwrap();
        assert!(other.access.is_none() && other.pipes.is_empty() && !other.admits(["bob"].into_iter()));
        assert_eq!(Listing::parse("no pubsub channels found\n").unwrap(), Listing::default());
    }

    #[test]
    fn a_named_key_does_not_make_another_user() {
        let shown = |name: &str| client(&format!("  - 0a ({name}@1.1.1.1:1)")).unwrap();
        for (name, user, same) in [
            ("bob", "bob", true),
            ("bob-laptop", "bob", true),
            ("bob-laptop", "bob-laptop", true),
            ("bob-laptop-2", "bob-laptop", false),
            ("bobby", "bob", false),
            ("bo", "bob", false),
            ("bob.x", "bob", false),
            ("bob x", "bob", false),
            ("bob@x", "bob", false),
            ("bob+x", "bob", false),
            ("bob-lap.top", "bob", true),
        ] {
            assert_eq!(shown(name).is(user), same, "{name} and {user}");
        }
    }

    #[test]
    fn intruders_are_named_whichever_way_they_listen() {
        let text = "- alice/x: (Access List: bob)\r\n  Subs:\r\n  - 0a (mallory@1.1.1.1:1)\r\n  Pipes:\r\n  - 0b (alice@1.1.1.1:2)\r\n  \
            - 0c (bob-laptop@1.1.1.1:3)\r\n  - 0d (public@1.1.1.1:4)\r\n";
        let listing = Listing::parse(text).unwrap();
        let listed = ["bob".parse().unwrap()];
        let names: Vec<&str> = listing.topics[0].intruders(&listed).map(|client| client.user.as_str()).collect();
        assert_eq!(names, ["public", "mallory"]);
    }

    #[test]
    fn of_a_part_nothing_is_told() {
        let output = |whole| CommandOutput { status: 0, stdout: SHOWN.to_owned(), stderr: String::new(), whole };
        assert!(Listing::read(&output(true)).is_ok());
        assert!(Listing::read(&output(false)).is_err());
        assert!(Listing::parse(&format!("{SHOWN}\r\n\r\n")).is_ok(), "empty lines at the end hide nothing");
    }

    #[test]
    fn odd_answers_are_refused() {
        let twice = "- alice/x:\r\n- alice/x: (Access List: mallory)\r\n";
        let behind = "- alice/x:\r\n\r\n- alice/y: (Access List: bob)\r\n";
        let cut = "- alice/x:\r\n  Pipes:\r\n  - 0a (bob@1.1.1.1:1)";
        let forged = "- alice/x:\r\n  Pipes:\r\n  - 0a (bob\r\n- alice/x: \r\n";
        for bad in [
            twice,
            forged,
            behind,
            cut,
            "  - 0a (bob@1.1.1.1:1)\r\n",
            "access denied\r\n",
            "- alice/x: (oops)\r\n",
            "- :\r\n",
        ] {
            assert!(Listing::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
