//! This machine's clock, compared with that of the cluster's host: she says with every beat what time it is, and signs it.
//!
//! Only listened to: whoever entered the cluster for this would believe her key from then on, without a word to the person.

use std::time::{Duration, Instant};

use async_std::future::timeout;
use p2p_proto::board::message::{Beat, Seek};
use p2p_proto::board::{Board, BoardEvent, Line, Message};
use p2p_proto::ids::{ClusterName, Fingerprint, MachineKey};
use p2p_proto::limits;
use p2p_scheduler::HostTrust;

use super::legs::{Leg, name};
use super::probes::{SAY_AGAIN, line, unix};
use crate::options::Common;
use crate::trouble::{Code, Trouble};
use crate::wiring::Wiring;

/// For so long a beat of another time may yet turn out to be an old one that somebody plays again, and the board may yet find its way in.
const DOUBT: Duration = Duration::from_secs(5);

/// What was heard of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    /// A beat of hers, from so many seconds before (or, if negative, after) this clock's time. `known`: by a key that this machine knows.
    Beat { ago: i64, known: bool },
    /// Nothing, though somebody let this machine onto the topic.
    Silence,
    /// The board lets nobody onto the topic, or not this user.
    Outside,
    /// Nothing: the board went.
    Failed(String),
}

/// Compares the clock with the host's, if she is heard within `wait`.
pub async fn compare(common: &Common, cluster: &ClusterName, wait: Duration) -> Leg {
    match listen(common, cluster, wait).await {
        Ok(Some(heard)) => verdict(cluster, &heard, wait),
        Ok(None) => {
            Leg::skipped(name::CLOCK, "without a host (--trust first-sight) there is no clock to compare it with")
        }
        Err(trouble) => Leg::broken(name::CLOCK, &trouble),
    }
}

fn verdict(cluster: &ClusterName, heard: &Heard, wait: Duration) -> Leg {
    let (owner, tolerated) = (cluster.owner(), limits::CLOCK_SKEW);
    let not_compared = |why: String| Leg::skipped(name::CLOCK, format!("not compared: {why}"));
    match heard {
        Heard::Beat { ago, .. } if ago.unsigned_abs() <= tolerated.as_secs() => Leg::well(
            name::CLOCK,
            format!(
                "agrees with that of {owner}'s host: {} s apart, {} s are tolerated",
                ago.abs(),
                tolerated.as_secs()
            ),
        ),
        Heard::Beat { ago, known } => {
            let apart = humantime::format_duration(Duration::from_secs(ago.unsigned_abs()));
            let direction = if *ago > 0 { "ahead of" } else { "behind" };
            let whose = if *known { format!("{owner}'s host") } else { format!("whoever speaks as {owner}'s host") };
            let text = format!(
                "this machine's clock is {apart} {direction} that of {whose}, and {} s are tolerated: neither believes what the other signs. \
                 Set the one that is wrong (`date -u` shows each)",
                tolerated.as_secs()
            );
            Leg::failed(name::CLOCK, Code::System, text)
        }
        Heard::Silence => {
            not_compared(format!("{owner}'s host was not heard within {} s; is she away?", wait.as_secs()))
        }
        Heard::Outside => {
            not_compared(format!("{owner} does not host {cluster} now, or you are not on the list; p2p status tells"))
        }
        Heard::Failed(why) => not_compared(why.clone()),
    }
}

/// `None` where there is no host to listen to.
async fn listen(common: &Common, cluster: &ClusterName, wait: Duration) -> Result<Option<Heard>, Trouble> {
    let wiring = Wiring::new(common, cluster.name()).await?;
    let her_key = match &wiring.member.trust {
        HostTrust::NoHost => return Ok(None),
        HostTrust::Named(fingerprint) => Some(HerKey::Named(fingerprint.clone())),
        HostTrust::Login | HostTrust::FirstSight => wiring.home.trusted(cluster)?.host.map(HerKey::Kept),
    };
    let board = wiring.board();
    let mut ear = Ear { cluster, her_key, best: None, outside: false };
    let begun = Instant::now();
    let mut doubted = None;
    let mut sequence = 0;
    let heard = loop {
        let limit = doubted.map_or(wait, |since: Duration| wait.min(since + DOUBT));
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            break ear.end();
        }
        match timeout(left.min(SAY_AGAIN), board.next()).await {
            Ok(BoardEvent::Failed(fault)) => break Heard::Failed(fault.to_string()),
            Ok(BoardEvent::Line(line)) => ear.on_line(&line, unix()),
            Ok(BoardEvent::Misrouted { .. }) => ear.outside = true,
            Ok(BoardEvent::Up) => {
                ear.outside = false;
                seek(board.as_ref(), &wiring, &mut sequence)?;
            }
            Ok(event) => log::debug!("while the clock was compared: {event:?}"),
            // What was asked before the topic was open is lost.
            Err(_) => seek(board.as_ref(), &wiring, &mut sequence)?,
        }
        if ear.best.is_some_and(|(ago, _)| ago.unsigned_abs() <= limits::CLOCK_SKEW.as_secs()) {
            break ear.end();
        }
        let doubtful = ear.best.is_some() || ear.outside;
        doubted = doubtful.then(|| doubted.unwrap_or_else(|| begun.elapsed()));
    };
    board.close().await;
    Ok(Some(heard))
}

/// Asks for a sign of life: the host answers with a beat.
fn seek(board: &dyn Board, wiring: &Wiring, sequence: &mut u64) -> Result<(), Trouble> {
    *sequence += 1;
    let message = Message::Seek(Seek { runtime: "clock".to_owned(), answers: 0 });
    let line = line(&wiring.member.user, *sequence, message)
        .map_err(|fault| Trouble::system("a line cannot be made", fault))?;
    if let Err(fault) = board.publish(line) {
        log::debug!("the host was not asked: {fault}");
    }
    Ok(())
}

/// The host's key, where this machine knows it.
enum HerKey {
    Named(Fingerprint),
    Kept(MachineKey),
}

impl HerKey {
    fn is(&self, key: MachineKey) -> bool {
        match self {
            Self::Named(fingerprint) => fingerprint.fits(key),
            Self::Kept(kept) => *kept == key,
        }
    }
}

/// Hears the beats of whoever may be the host, and keeps the one that is nearest to this clock.
struct Ear<'a> {
    cluster: &'a ClusterName,
    her_key: Option<HerKey>,
    best: Option<(i64, bool)>,
    outside: bool,
}

impl Ear<'_> {
    fn on_line(&mut self, line: &Line, now: u64) {
        // Others say other things, and anybody may say rubbish.
        let Ok(envelope) = line.decode() else { return };
        let Message::Beat(signed) = envelope.message else { return };
        let Ok(beat) = Beat::verify(&signed, self.cluster) else { return };
        if self.her_key.as_ref().is_some_and(|hers| !hers.is(beat.host)) {
            return;
        }
        let ago = i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(i64::try_from(beat.time).unwrap_or(i64::MAX));
        if self.best.is_none_or(|(best, _)| ago.unsigned_abs() < best.unsigned_abs()) {
            self.best = Some((ago, self.her_key.is_some()));
        }
    }

    fn end(&self) -> Heard {
        match self.best {
            Some((ago, known)) => Heard::Beat { ago, known },
            None if self.outside => Heard::Outside,
            None => Heard::Silence,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use p2p_proto::board::message::Beat;
    use p2p_proto::board::{Envelope, Line};
    use p2p_proto::ids::PeerName;
    use p2p_proto::trust::Identity;

    use super::super::legs::State;
    use super::*;

    fn cluster() -> ClusterName {
        "alice/friends".parse().unwrap()
    }

    #[test]
    fn what_was_heard_is_said() {
        let (well, skipped, failed) = (State::Well, State::Skipped, State::Failed(Code::System));
        let beat = |ago, known| Heard::Beat { ago, known };
        let table = [
            (beat(0, true), well, "agrees with that of alice's host: 0 s apart"),
            (beat(-300, true), well, "300 s apart"),
            (beat(301, true), failed, "is 5m 1s ahead of that of alice's host"),
            (beat(-3600, true), failed, "is 1h behind that of alice's host"),
            (beat(3600, false), failed, "that of whoever speaks as alice's host"),
            (Heard::Silence, skipped, "alice's host was not heard within 30 s"),
            (Heard::Outside, skipped, "alice does not host alice/friends now, or you are not on the list"),
            (Heard::Failed("it went".to_owned()), skipped, "not compared: it went"),
        ];
        for (heard, state, words) in table {
            let leg = verdict(&cluster(), &heard, Duration::from_secs(30));
            assert_eq!(leg.state, state, "{heard:?}");
            assert!(leg.words.contains(words), "{heard:?}: {}", leg.words);
        }
    }

    fn said(host: &Identity, time: u64) -> Line {
        let beat = Beat {
            host: host.machine_key(),
            peers: 1,
            serial: 1,
            removals: Vec::new(),
            roster: None,
            time,
            since: 0,
            rival: None,
            leaving: false,
        };
        let message = Message::Beat(beat.sign(host, &cluster()));
        Line::encode(&Envelope {
            from: PeerName::new(&"alice".parse().unwrap(), "here", 1),
            sequence: 1,
            time,
            message,
        })
        .unwrap()
    }

    #[test]
    fn the_beat_that_is_nearest_counts_and_only_hers() {
        let (alice, eve) = (Identity::from_secret(&[1; 32]), Identity::from_secret(&[2; 32]));
        let cluster = cluster();
        let hers = Some(HerKey::Kept(alice.machine_key()));
        let mut ear = Ear { cluster: &cluster, her_key: hers, best: None, outside: false };
        assert_eq!(ear.end(), Heard::Silence);
        ear.on_line(&said(&eve, 10_000), 10_000);
        assert_eq!(ear.end(), Heard::Silence, "somebody else's clock was taken for hers");
        // Somebody plays an old one again, before she speaks and after.
        ear.on_line(&said(&alice, 1_000), 10_000);
        assert_eq!(ear.end(), Heard::Beat { ago: 9_000, known: true });
        ear.on_line(&said(&alice, 10_002), 10_000);
        ear.on_line(&said(&alice, 1_000), 10_000);
        assert_eq!(ear.end(), Heard::Beat { ago: -2, known: true });
    }

    #[test]
    fn where_her_key_is_not_known_whoever_signs_is_heard() {
        let cluster = cluster();
        let mut ear = Ear { cluster: &cluster, her_key: None, best: None, outside: true };
        assert_eq!(ear.end(), Heard::Outside);
        ear.on_line(&said(&Identity::from_secret(&[2; 32]), 9_000), 10_000);
        assert_eq!(ear.end(), Heard::Beat { ago: 1_000, known: false });
    }
}
