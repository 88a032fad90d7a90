//! On whose word this process believes a host whom it meets for the first time, and what a person is told of that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use p2p_proto::ids::{ClusterName, MachineKey};
use p2p_scheduler::{HostTrust, Member};
use p2p_transport_pico::{Progress, Step};

use crate::say;
use crate::words::words;

/// The server at which this process logged in last says that it is a hub.
static ON_HUB: AtomicBool = AtomicBool::new(false);
static BASIS: OnceLock<Basis> = OnceLock::new();

/// What is known before.
#[derive(Clone, Copy, Debug)]
struct Basis {
    /// A host's key was kept, or a person has named it.
    known: bool,
    own: MachineKey,
}

/// What is said.
#[derive(Debug, PartialEq, Eq)]
enum Words {
    /// Whatever `-q` says.
    Warning(String),
    Notice(String),
}

struct Watch;

impl Progress for Watch {
    fn done(&self, _: Step, _: String) {}

    fn entered(&self, hub: bool) {
        ON_HUB.store(hub, Ordering::Relaxed);
    }
}

/// Watches who the board is, for a process that is `member`. `kept` is the host whom it knows from earlier.
pub fn watch(member: &Member, kept: Option<MachineKey>) -> Arc<dyn Progress> {
    let known = kept.is_some() || matches!(member.trust, HostTrust::Named(_));
    // A process belongs to one cluster.
    let _ = BASIS.set(Basis { known, own: member.identity.machine_key() });
    Arc::new(Watch)
}

/// Whether the board says that it is a hub.
pub fn on_hub() -> bool {
    ON_HUB.load(Ordering::Relaxed)
}

/// This host has signed this machine's key. Says it once if nobody has vouched for her but the board.
pub fn say_host(host: &MachineKey, cluster: &ClusterName) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let Some(basis) = BASIS.get().filter(|_| !SAID.swap(true, Ordering::Relaxed)) else { return };
    match first_sight(*basis, host, cluster, on_hub()) {
        Some(Words::Warning(text)) => say::line(&format!("p2p: {text}")),
        Some(Words::Notice(text)) => say::info(&text),
        None => {}
    }
}

fn first_sight(basis: Basis, host: &MachineKey, cluster: &ClusterName, on_hub: bool) -> Option<Words> {
    if basis.known || basis.own == *host {
        return None;
    }
    let (fingerprint, said, owner) = (host.fingerprint(), words(host), cluster.owner());
    Some(if on_hub {
        Words::Notice(format!(
            "met the cluster's host for the first time; her key is {fingerprint} ({said}). Compare that with her once: it is believed from now on"
        ))
    } else {
        Words::Warning(format!(
            "met the host of {cluster} for the first time, and that this is {owner} is the board's word and nothing else: it is no hub, and whoever \
             runs it, or can log in there as {owner}, could stand in her place. Ask {owner}, by another way than this board, for the words of her \
             machine (p2p id there). Only if they are\n  {said}\nit is she; then: p2p trust pin {fingerprint} --cluster {cluster}\nElse: p2p trust \
             forget --host --cluster {cluster}"
        ))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_boards_word_is_named_where_it_is_all_there_is() {
        let (host, own) = (MachineKey([1; 32]), MachineKey([2; 32]));
        let cluster = "alice/friends".parse().unwrap();
        let said = |known, own, on_hub| first_sight(Basis { known, own }, &host, &cluster, on_hub);
        let Some(Words::Warning(text)) = said(false, own, false) else { panic!("no warning") };
        let pin = format!("p2p trust pin {} --cluster alice/friends", host.fingerprint());
        for part in ["the board's word and nothing else", &words(&host), &pin] {
            assert!(text.contains(part), "{text}");
        }
        assert!(matches!(said(false, own, true), Some(Words::Notice(_))));
        for on_hub in [false, true] {
            assert_eq!(said(true, own, on_hub), None);
            assert_eq!(said(false, host, on_hub), None);
        }
    }
}
