//! The way to the other side: the link's own race (L-02), under the key that the mailbox gave.
//!
//! The crate has a race too, but asks a STUN server on the internet before each, prefers the first connection that shakes hands to the
//! one that the other side chooses, and sets no TCP_NODELAY.

use std::sync::Arc;
use std::time::Duration;

use p2p_proto::link::{Hint, Hints, LinkError};

use super::config::CodeConfig;
use super::error::CodeError;
use super::mailbox::{Talk, bounded};
use super::message::Transit;
use super::pipe::Pipe;
use crate::config::RelayAddress;
use crate::procedure::{Lines, Side};
use crate::transport::{Pending, side_id};

/// This side's ports, until the other side has said how it can be reached.
pub(super) struct Ways(Pending);

impl Ways {
    pub(super) fn open(config: &CodeConfig) -> Self {
        Self(Pending::open(Arc::new(config.links.clone())))
    }

    /// What to tell the other side.
    pub(super) fn ours(&self, config: &CodeConfig) -> Transit {
        Transit::ours(self.0.offered(), config.links.direct)
    }

    /// Connects.
    pub(super) async fn connect(
        mut self,
        config: &CodeConfig,
        talk: &Talk,
        side: Side,
        theirs: &Transit,
    ) -> Result<Pipe, CodeError> {
        let within = config.waits.connect;
        let key = talk.transit_key()?;
        let theirs = theirs.hints();
        let relays: Vec<RelayAddress> =
            theirs.relays().filter_map(|(host, port)| RelayAddress::new(host, port).ok()).collect();
        let meeting = meeting_points(self.0.offered(), &theirs);
        self.0.trust_relays(relays);
        let lines = Lines::new(&key, side, side_id().map_err(unreachable)?).outspoken();
        // The race has the same limit, and words for what was tried.
        let late = || CodeError::Unreachable("no connection to the other side".to_owned());
        let chosen = self.0.choose(side, lines, &meeting, false, within);
        let chosen = bounded(&config.stop, within + Duration::from_secs(5), late, chosen).await?;
        Ok(Pipe::new(chosen.map_err(unreachable)?, &key, side, config.waits.stall, config.stop.clone()))
    }
}

/// Both sides wait at the relays of both, as all clients do.
fn meeting_points(ours: &Hints, theirs: &Hints) -> Hints {
    let is_relay = |hint: &&Hint| matches!(hint, Hint::Relay { .. });
    let (relays, direct): (Vec<&Hint>, Vec<&Hint>) = theirs.0.iter().partition(is_relay);
    let own = ours.0.iter().filter(is_relay);
    Hints(relays.into_iter().chain(own).chain(direct).cloned().collect())
}

fn unreachable(error: LinkError) -> CodeError {
    CodeError::Unreachable(format!("{error}; is there a relay that both know (--relay)?"))
}
