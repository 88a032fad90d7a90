//! The owner's look at her topic (B-06): the server forgets her list with the session that brought it, and now and then before; and it lets
//! people in who are not on it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use p2p_proto::board::{Line, Message};

use crate::board::Topic;
use crate::call::Call;
use crate::listing::{Listing, ListingError};
use crate::visit::Ended;
use crate::wire::Wire;

/// How often she looks while nobody comes or goes: a list that goes unseen is back within 30 s.
const LIST_CHECK: Duration = Duration::from_secs(25);
/// How often she looks after somebody came or went: lists are lost with those who go.
const LIST_CHECK_LIVELY: Duration = Duration::from_secs(2);
/// For how long after that.
const LIVELY: Duration = Duration::from_secs(10);
/// When she looks again before she believes that it is not there: the server opens a topic a moment after it says so.
const LIST_RECHECK: Duration = Duration::from_secs(1);
/// Connections that are remembered, so that each is warned of once.
const WARNED: usize = 1024;

/// Looks with `ls`, in a channel of its own beside the topic's.
pub(crate) struct ListWatch {
    call: Option<Call>,
    next: Instant,
    lively_until: Instant,
    /// The list was seen once.
    shown: bool,
    /// It was not there at the last look.
    missed: bool,
    /// Who was connected at the last look.
    connected: BTreeSet<String>,
    /// Connections, and answers that cannot be trusted, that she was told of.
    warned: BTreeSet<String>,
}

impl ListWatch {
    /// The first look is due at once; coming back is a time when others come, too.
    pub(crate) fn new(now: Instant) -> Self {
        let (connected, warned) = Default::default();
        Self { call: None, next: now, lively_until: now + LIVELY, shown: false, missed: false, connected, warned }
    }

    /// When the next look is due, unless one is under way.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.call.is_none().then_some(self.next)
    }

    /// Begins a look that is due.
    pub(crate) fn handle_time(&mut self, now: Instant) {
        if self.deadline().is_some_and(|due| due <= now) {
            self.call = Some(Call::new("ls"));
        }
    }

    /// A line of somebody else: from whoever comes or goes she hears one.
    pub(crate) fn on_line(&mut self, now: Instant, line: &Line) {
        let comes_or_goes =
            |message| matches!(message, Message::Hello(_) | Message::Bye(_) | Message::Claim(_) | Message::Seek(_));
        if line.decode().is_ok_and(|envelope| comes_or_goes(envelope.message)) {
            self.stir(now);
        }
    }

    /// Bytes that are no line of ours: a person, or an older program, which takes the list along when it goes.
    pub(crate) fn on_foreign(&mut self, now: Instant) {
        self.stir(now);
    }

    fn stir(&mut self, now: Instant) {
        self.lively_until = now + LIVELY;
        self.next = self.next.min(now + LIST_CHECK_LIVELY);
    }

    /// Goes on with the look that is under way; whether it is done. What a person should know is added to `warnings`.
    ///
    /// # Errors
    /// [`Ended::NoList`] when the list is not there, looked at twice, and [`Ended::Lost`].
    pub(crate) fn step(&mut self, wire: &Wire, topic: &Topic, warnings: &mut Vec<String>) -> Result<bool, Ended> {
        let Some(call) = &mut self.call else { return Ok(false) };
        let Some(output) = call.step(wire)? else { return Ok(false) };
        self.call = None;
        if output.status == 0 {
            self.judge(Listing::read(&output), topic, Instant::now(), warnings)?;
        } else {
            self.next = Instant::now() + LIST_CHECK;
            let said = output.stderr.trim();
            self.warn(warnings, format!("the board does not tell who may enter {}: it says {said:?}", topic.name));
        }
        Ok(true)
    }

    /// Whether bytes wait in libssh2 that no event of the socket will announce.
    pub(crate) fn has_unread(&self) -> bool {
        self.call.as_ref().is_some_and(Call::has_unread)
    }

    fn judge(
        &mut self,
        listing: Result<Listing, ListingError>,
        topic: &Topic,
        now: Instant,
        warnings: &mut Vec<String>,
    ) -> Result<(), Ended> {
        let listing = match listing {
            Ok(listing) => listing,
            Err(fault) => {
                self.next = now + if now < self.lively_until { LIST_CHECK_LIVELY } else { LIST_CHECK };
                let text = format!(
                    "{fault}. Somebody who is connected imitates its lines: while that lasts, nobody can tell who is connected to \
                     {} and who may enter it",
                    topic.name
                );
                self.warn(warnings, text);
                return Ok(());
            }
        };
        let users = topic.access.as_deref().unwrap_or_default();
        let found = listing.owned(&topic.name);
        let connected: BTreeSet<String> =
            found.iter().flat_map(|topic| topic.clients()).take(WARNED).map(|client| client.id.clone()).collect();
        if connected != self.connected {
            self.connected = connected;
            self.lively_until = now + LIVELY;
        }
        self.next = now + if now < self.lively_until { LIST_CHECK_LIVELY } else { LIST_CHECK };
        for client in found.iter().flat_map(|topic| topic.intruders(users)) {
            let at = client.address.map_or(String::new(), |address| format!(" (from {address})"));
            let name = match client.user.as_str() {
                "public" => "somebody without an account",
                user => user,
            };
            let text = format!(
                "{name}{at} is connected to {} and is not on your list: the board let them in. They can see who is there and disturb; no \
                 task, result or file reaches them. If it is a friend, host with that name in --users",
                topic.name
            );
            // By connection: the same one may be seen again and again.
            if self.remember(&client.id) {
                warnings.push(text);
            }
        }
        let shown = found.is_some_and(|topic| topic.admits(users.iter().map(|user| user.as_str())));
        match (shown, self.missed) {
            (true, _) => (self.shown, self.missed) = (true, false),
            (false, true) => return Err(Ended::NoList { before: self.shown }),
            (false, false) => (self.missed, self.next) = (true, now + LIST_RECHECK),
        }
        Ok(())
    }

    fn warn(&mut self, warnings: &mut Vec<String>, text: String) {
        if self.remember(&text) {
            warnings.push(text);
        }
    }

    fn remember(&mut self, what: &str) -> bool {
        if self.warned.len() >= WARNED {
            self.warned.clear();
        }
        self.warned.insert(what.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Topic {
        let access = Some(vec!["bob".parse().unwrap()]);
        Topic { name: "alice/x".to_owned(), access, twin: None, after_host: false }
    }

    fn look(watch: &mut ListWatch, now: Instant, text: &str) -> (Result<(), Ended>, Vec<String>) {
        let mut warnings = Vec::new();
        (watch.judge(Listing::parse(text), &topic(), now, &mut warnings), warnings)
    }

    const WITH: &str = "- alice/x: (Access List: bob)\r\n";
    const WITHOUT: &str = "- alice/x:\r\n";

    #[test]
    fn a_list_that_is_not_there_twice_is_gone() {
        let now = Instant::now();
        let mut watch = ListWatch::new(now);
        for text in [WITHOUT, WITH, WITHOUT, WITH, WITHOUT] {
            assert!(look(&mut watch, now, text).0.is_ok());
        }
        assert_eq!(watch.deadline(), Some(now + LIST_RECHECK));
        assert!(matches!(look(&mut watch, now, ""), (Err(Ended::NoList { before: true }), _)));

        let mut never = ListWatch::new(now);
        assert!(look(&mut never, now, WITHOUT).0.is_ok());
        assert!(matches!(look(&mut never, now, WITHOUT), (Err(Ended::NoList { before: false }), _)));
    }

    #[test]
    fn she_looks_often_only_while_people_come_and_go() {
        let mut now = Instant::now();
        let mut watch = ListWatch::new(now);
        let end = now + LIVELY;
        while now < end {
            assert!(look(&mut watch, now, WITH).0.is_ok());
            assert_eq!(watch.deadline(), Some(now + LIST_CHECK_LIVELY));
            now += LIST_CHECK_LIVELY;
        }
        assert!(look(&mut watch, now, WITH).0.is_ok());
        assert_eq!(watch.deadline(), Some(now + LIST_CHECK));
        // Somebody new at a look, or a word of somebody.
        now += LIST_CHECK;
        assert!(look(&mut watch, now, &format!("{WITH}  Pipes:\r\n  - 0a (bob@1.1.1.1:1)\r\n")).0.is_ok());
        assert_eq!(watch.deadline(), Some(now + LIST_CHECK_LIVELY));
        now += LIVELY;
        assert!(look(&mut watch, now, &format!("{WITH}  Pipes:\r\n  - 0a (bob@1.1.1.1:1)\r\n")).0.is_ok());
        assert_eq!(watch.deadline(), Some(now + LIST_CHECK));
        watch.on_foreign(now);
        assert_eq!(watch.deadline(), Some(now + LIST_CHECK_LIVELY));
    }

    #[test]
    fn each_intruder_is_told_once_and_so_is_each_answer_that_imitates() {
        let now = Instant::now();
        let mut watch = ListWatch::new(now);
        let eve = format!("{WITH}  Pipes:\r\n  - 0a (eve-phone@1.1.1.1:1)\r\n");
        let (_, warnings) = look(&mut watch, now, &eve);
        assert!(warnings.len() == 1 && warnings[0].contains("eve-phone (from 1.1.1.1:1)"), "{warnings:?}");
        assert!(look(&mut watch, now, &eve).1.is_empty());
        let twice = format!("{WITH}{WITH}");
        let (judged, warnings) = look(&mut watch, now, &twice);
        assert!(judged.is_ok() && warnings.len() == 1 && warnings[0].contains("imitates"), "{warnings:?}");
        assert!(look(&mut watch, now, &twice).1.is_empty());
    }
}
