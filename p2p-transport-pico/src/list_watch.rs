//! The owner's look at her list (B-06): the server forgets it with the session that brought it, and now and then before.

use std::time::{Duration, Instant};

use crate::board::Topic;
use crate::call::Call;
use crate::listing::Listing;
use crate::visit::Ended;
use crate::wire::Wire;

/// How often she looks.
const LIST_CHECK: Duration = Duration::from_secs(30);
/// When she looks again before she believes that it is not there: the server opens a topic a moment after it says so.
const LIST_RECHECK: Duration = Duration::from_secs(1);

/// Looks with `ls`, in a channel of its own beside the topic's.
pub(crate) struct ListWatch {
    call: Option<Call>,
    next: Instant,
    /// The list was seen once.
    shown: bool,
    /// It was not there at the last look.
    missed: bool,
}

impl ListWatch {
    /// The first look is due at once.
    pub(crate) fn new(now: Instant) -> Self {
        Self { call: None, next: now, shown: false, missed: false }
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

    /// Goes on with the look that is under way; whether it is done.
    ///
    /// # Errors
    /// [`Ended::NoList`] when the list is not there, looked at twice, and [`Ended::Lost`].
    pub(crate) fn step(&mut self, wire: &Wire, topic: &Topic) -> Result<bool, Ended> {
        let Some(call) = &mut self.call else { return Ok(false) };
        let Some(output) = call.step(wire)? else { return Ok(false) };
        self.call = None;
        let now = Instant::now();
        self.next = now + LIST_CHECK;
        match Listing::parse(&output.stdout) {
            Ok(listing) if output.status == 0 => self.judge(&listing, topic, now)?,
            Ok(_) => log::warn!("cannot see who may enter {}: the board says {:?}", topic.name, output.stderr.trim()),
            Err(fault) => log::warn!("cannot see who may enter {}: {fault}", topic.name),
        }
        Ok(true)
    }

    /// Whether bytes wait in libssh2 that no event of the socket will announce.
    pub(crate) fn has_unread(&self) -> bool {
        self.call.as_ref().is_some_and(Call::has_unread)
    }

    fn judge(&mut self, listing: &Listing, topic: &Topic, now: Instant) -> Result<(), Ended> {
        let wanted = topic.access.iter().flatten().map(|user| user.as_str());
        let shown = listing.owned(&topic.name).is_some_and(|topic| topic.admits(wanted));
        match (shown, self.missed) {
            (true, _) => (self.shown, self.missed) = (true, false),
            (false, true) => return Err(Ended::NoList { before: self.shown }),
            (false, false) => (self.missed, self.next) = (true, now + LIST_RECHECK),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_not_there_twice_is_gone() {
        let access = Some(vec!["bob".parse().unwrap()]);
        let topic = Topic { name: "alice/x".to_owned(), access, twin: None, after_host: false };
        let with = Listing::parse("- alice/x: (Access List: bob)\r\n").unwrap();
        let without = Listing::parse("- alice/x:\r\n").unwrap();
        let now = Instant::now();

        let mut watch = ListWatch::new(now);
        for listing in [&without, &with, &without, &with, &without] {
            assert!(watch.judge(listing, &topic, now).is_ok());
        }
        assert_eq!(watch.deadline(), Some(now + LIST_RECHECK));
        assert!(matches!(watch.judge(&Listing::default(), &topic, now), Err(Ended::NoList { before: true })));

        let mut never = ListWatch::new(now);
        assert!(never.judge(&without, &topic, now).is_ok());
        assert!(matches!(never.judge(&without, &topic, now), Err(Ended::NoList { before: false })));
    }
}
