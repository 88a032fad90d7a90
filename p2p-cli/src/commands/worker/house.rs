//! Who signs in a cluster of one's own machines: the first of them that works there, beside its work, so that nobody has to host.

use std::time::{Duration, Instant};

use async_io::Timer;
use futures::future;
use p2p_proto::ids::MachineKey;
use p2p_scheduler::machine::admission::AdmissionEvent;
use p2p_scheduler::{HostConfig, HostTrust, WorkerReport};

use crate::hosting::Hosting;
use crate::options::{Common, Trust};
use crate::say;
use crate::trouble::Trouble;
use crate::wiring::Wiring;

/// Another machine that signs is heard well within this time; of two that begin at once each waits up to as long again.
const LISTEN: Duration = Duration::from_secs(4);
/// Machines work on for this long while the first one is switched off.
const MEMBER_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The part of a worker that signs, if it is this one's to do.
pub struct House {
    own: MachineKey,
    /// It may be this machine that signs.
    may: bool,
    /// When it begins to, if nobody else does until then.
    at: Option<Instant>,
    /// Another machine has answered: it signs, even if it does not know this one yet, or has gone for a while.
    other: bool,
    hosting: Option<Hosting>,
}

impl House {
    pub fn new(common: &Common, wiring: &Wiring) -> Result<Self, Trouble> {
        let own = wiring.member.identity.machine_key();
        let named = match &wiring.member.trust {
            HostTrust::Named(key) => key.fits(own),
            _ => common.trust == Trust::Host,
        };
        let may = wiring.is_personal() && named;
        let mut house = Self { own, may, at: None, other: false, hosting: None };
        if may && wiring.home.host(&wiring.member.cluster) == Some(own) {
            house.begin(wiring)?;
        }
        Ok(house)
    }

    fn begin(&mut self, wiring: &Wiring) -> Result<(), Trouble> {
        self.at = None;
        let config = HostConfig { member_ttl: MEMBER_TTL, ..HostConfig::of([]) };
        self.hosting = Some(Hosting::open(wiring, config, false)?);
        Ok(())
    }

    /// Takes note of what the worker is told, and passes it on.
    pub fn hear<'a>(&mut self, report: &'a WorkerReport) -> &'a WorkerReport {
        match report {
            _ if !self.may || self.other || self.hosting.is_some() => {}
            // Nobody answers, or who did has gone: then it is one that still works.
            WorkerReport::BoardUp | WorkerReport::Admission(AdmissionEvent::HostAway) => {
                let jitter = LISTEN.mul_f64(f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX));
                self.at = Some(Instant::now() + LISTEN + jitter);
            }
            WorkerReport::Admission(AdmissionEvent::HostBack) => self.at = None,
            // Whose key counts need not be known here yet: she may be asking her owner about this very machine.
            WorkerReport::Admission(AdmissionEvent::Denied(_) | AdmissionEvent::OtherHost { .. }) => {
                (self.at, self.other) = (None, true);
            }
            // Another process of this machine's may end before this one does.
            WorkerReport::Admission(AdmissionEvent::HostHeard { key }) => {
                (self.at, self.other) = (None, *key != self.own);
            }
            _ => {}
        }
        report
    }

    /// Signs, or waits until it is time to. Cancel-safe; returns now and then.
    pub async fn tend(&mut self, wiring: &Wiring) {
        if let Some(hosting) = &mut self.hosting {
            match hosting.tend(None).await {
                Ok(true) => {}
                // Another process of this machine does it.
                Ok(false) => self.hosting = None,
                Err(trouble) => {
                    log::info!("{trouble}");
                    self.hosting = None;
                }
            }
            return;
        }
        let Some(at) = self.at else { return future::pending().await };
        Timer::at(at).await;
        self.at = None;
        // Whose key counts is known by now, if somebody else signs.
        let host = wiring.home.host(&wiring.member.cluster);
        if host.is_none_or(|host| host == wiring.member.identity.machine_key())
            && let Err(trouble) = self.begin(wiring)
        {
            say::info(&format!("this machine does not sign others of yours: {trouble}"));
        }
    }

    /// Says that nobody signs here any more.
    pub async fn leave(self) {
        if let Some(hosting) = self.hosting {
            hosting.leave().await;
        }
    }
}
