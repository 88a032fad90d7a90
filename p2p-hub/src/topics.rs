//! Which topic a caller gets when asking for one: naming and access, without any state of who is connected.
//!
//! The rule, as pico.sh means it: everybody owns the topics below his own name. Asking for `NAME` means `USER/NAME`. Asking
//! for `OTHER/NAME` means that very topic if it has an access list just now with the caller on it; otherwise, silently,
//! the caller's own `USER/OTHER/NAME`. Topics below `public/` belong to everybody; a list on one holds for as long as the
//! session that brought it, and keeps out who is not on it.

use std::collections::BTreeMap;

use crate::limits::{MAX_ACCESS_ENTRIES, MAX_TOPIC_BYTES};

/// The name of everybody whose key is unknown, and of the topics that belong to everybody.
pub(crate) const PUBLIC_USER: &str = "public";

/// Who asks, as the SSH server authenticated them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The user's name, [`PUBLIC_USER`] for an unknown key.
    pub(crate) user: String,
    /// The key's fingerprint, `SHA256:...`.
    pub(crate) fingerprint: String,
}

impl Caller {
    /// Whether the key belongs to a user of this hub.
    pub(crate) fn is_known(&self) -> bool {
        self.user != PUBLIC_USER
    }
}

/// User names and key fingerprints that may join a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AccessList(Vec<String>);

impl AccessList {
    /// Parses the value of `-a`: comma-separated, blanks around the commas ignored.
    pub(crate) fn parse(value: &str) -> Result<AccessList, String> {
        if value.is_empty() {
            return Ok(AccessList::default());
        }
        let entries: Vec<_> = value.split(',').map(|entry| entry.trim().to_owned()).collect();
        if entries.len() > MAX_ACCESS_ENTRIES {
            return Err(format!("an access list has at most {MAX_ACCESS_ENTRIES} entries"));
        }
        if entries.iter().any(|entry| !entry.chars().all(is_printable)) {
            return Err("an access list holds user names and SHA256:... fingerprints".into());
        }
        Ok(AccessList(entries))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn entries(&self) -> &[String] {
        &self.0
    }

    fn allows(&self, caller: &Caller) -> bool {
        self.0.iter().any(|entry| *entry == caller.user || *entry == caller.fingerprint)
    }
}

/// The access lists in force, by topic. A topic that was first opened without a list has an empty one.
pub(crate) type AccessLists = BTreeMap<String, AccessList>;

/// What asking for a topic leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// This topic, by its full name, which is the caller's own or public.
    Own(String),
    /// Somebody else's topic, whose access list names the caller.
    Guest(String),
    /// A public topic whose access list does not name the caller.
    Denied,
}

/// Finds the topic that `caller` gets for `requested`; `public` is the flag `-p`.
pub(crate) fn resolve(caller: &Caller, requested: &str, public: bool, lists: &AccessLists) -> Resolved {
    let own = if public { within(PUBLIC_USER, requested) } else { within(&caller.user, requested) };
    let allowed_by = |topic: &str| lists.get(topic).is_some_and(|list| list.allows(caller));
    if !public && own != requested && allowed_by(requested) {
        return Resolved::Guest(requested.to_owned());
    }
    let everybodys = public || !caller.is_known();
    let restricted = lists.get(&own).is_some_and(|list| !list.is_empty());
    if everybodys && restricted && !allowed_by(&own) {
        return Resolved::Denied;
    }
    Resolved::Own(own)
}

/// Checks a topic name as it was asked for.
///
/// Names end up in the owner's `ls`, one a line: what could forge such a line is refused.
pub(crate) fn check_topic(requested: &str, caller: &Caller) -> Result<(), String> {
    let room = MAX_TOPIC_BYTES.saturating_sub(caller.user.len().max(PUBLIC_USER.len()) + 1);
    if requested.len() > room {
        return Err(format!("topic name too long: at most {room} bytes for you"));
    }
    if requested.contains('*') {
        return Err("topic patterns with '*' are not supported by this hub".into());
    }
    if !requested.chars().all(is_printable) {
        return Err("topic names hold letters, digits and ASCII punctuation only".into());
    }
    Ok(())
}

/// Not `!is_control()`: invisible and direction-changing characters could make one name look like another.
fn is_printable(c: char) -> bool {
    c.is_ascii_graphic() || c.is_alphanumeric()
}

fn within(owner: &str, topic: &str) -> String {
    match topic.strip_prefix(owner) {
        Some(rest) if rest.starts_with('/') => topic.to_owned(),
        _ => format!("{owner}/{topic}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(user: &str) -> Caller {
        Caller { user: user.into(), fingerprint: format!("SHA256:{user}") }
    }

    fn lists(entries: &[(&str, &str)]) -> AccessLists {
        entries.iter().map(|(topic, list)| ((*topic).to_owned(), AccessList::parse(list).unwrap())).collect()
    }

    #[test]
    fn topics_resolve_as_the_rule_says() {
        let own = |name: &str| Resolved::Own(name.into());
        let guest = |name: &str| Resolved::Guest(name.into());
        let with_bob = &[("alice/friends", "bob, SHA256:public")][..];
        let without_list = &[("alice/friends", "")][..];
        let public_list = &[("public/room", "bob")][..];
        let table = [
            ("alice", "friends", false, &[][..], own("alice/friends")),
            ("alice", "alice/friends", false, &[], own("alice/friends")),
            ("alice", "alice", false, &[], own("alice/alice")),
            ("alice", "alice/friends", false, with_bob, own("alice/friends")),
            ("alice", "friends", false, with_bob, own("alice/friends")),
            ("bob", "alice/friends", false, with_bob, guest("alice/friends")),
            ("bob", "alice/friends", false, &[], own("bob/alice/friends")),
            ("bob", "alice/friends", false, without_list, own("bob/alice/friends")),
            ("carol", "alice/friends", false, with_bob, own("carol/alice/friends")),
            ("al", "alice/friends", false, with_bob, own("al/alice/friends")),
            ("public", "alice/friends", false, with_bob, guest("alice/friends")),
            ("public", "friends", false, with_bob, own("public/friends")),
            ("alice", "room", true, &[], own("public/room")),
            ("alice", "public/room", true, &[], own("public/room")),
            ("alice", "room", true, public_list, Resolved::Denied),
            ("bob", "room", true, public_list, own("public/room")),
            ("bob", "public/room", false, public_list, guest("public/room")),
            ("public", "room", false, public_list, Resolved::Denied),
            ("alice", "room", false, public_list, own("alice/room")),
        ];
        for (user, requested, public, entries, expected) in table {
            let got = resolve(&caller(user), requested, public, &lists(entries));
            assert_eq!(got, expected, "{user} asks for {requested}, -p={public}");
        }
    }

    #[test]
    fn an_access_list_is_split_at_commas_and_trimmed() {
        let table: [(&str, &[&str]); 4] =
            [("", &[]), ("bob", &["bob"]), ("bob, carol", &["bob", "carol"]), ("bob,", &["bob", ""])];
        for (value, expected) in table {
            assert_eq!(AccessList::parse(value).unwrap().entries(), expected);
        }
        assert!(AccessList::parse("bob\r\n- alice/forged:").is_err());
        assert!(AccessList::parse(&"x,".repeat(MAX_ACCESS_ENTRIES + 1)).is_err());
    }

    #[test]
    fn names_that_could_forge_a_listing_are_refused() {
        for bad in ["a\nb", "a b", "a\u{202e}b", "a*", "a\u{7f}", &"x".repeat(300)] {
            assert!(check_topic(bad, &caller("alice")).is_err(), "{bad:?}");
        }
        for good in ["friends", "alice/friends/future.p2p", "café", "a_b-c:d"] {
            assert_eq!(check_topic(good, &caller("alice")), Ok(()));
        }
    }
}
