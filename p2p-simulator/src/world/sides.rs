//! Side topics of a world's board: it knows by whose login each process is there (T-02).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2p_proto::board::Sighting;
use p2p_proto::ids::UserName;
use p2p_scheduler::machine::client::ClientInput;
use p2p_scheduler::machine::host::HostInput;
use p2p_scheduler::machine::side::{SideInput, SideOutput};
use p2p_scheduler::machine::worker::WorkerInput;

use super::{Happening, Machine, Peer, World};

/// Until a topic is open, or somebody on it is seen.
const TAKES: Duration = Duration::from_millis(100);

/// Who looks for whom in which topic, and who is there.
#[derive(Debug, Default)]
pub(super) struct Sides {
    watched: BTreeMap<String, (Peer, UserName, u64)>,
    there: BTreeMap<String, BTreeSet<Peer>>,
    /// How often somebody went to each.
    attended: BTreeMap<String, usize>,
}

impl World {
    pub(super) fn side(&mut self, peer: Peer, output: SideOutput) {
        self.note(peer, || format!("{output:?}"));
        match output {
            SideOutput::Watch { topic, guest, look } => {
                self.sides.watched.insert(topic.clone(), (peer, guest, look));
                self.later(TAKES, Happening::Side(peer, SideInput::Opened { topic: topic.clone(), look }));
                self.look(&topic);
            }
            SideOutput::Attend { topic } => {
                *self.sides.attended.entry(topic.clone()).or_default() += 1;
                // Who is not let in is in a topic of his own, and stays there.
                let let_in =
                    self.sides.watched.get(&topic).is_some_and(|(_, guest, _)| *guest == self.places[peer].login);
                if let_in {
                    self.intrude(peer, &topic);
                }
            }
            SideOutput::Leave { topic } => {
                if self.sides.watched.get(&topic).is_some_and(|(owner, ..)| *owner == peer) {
                    self.sides.watched.remove(&topic);
                }
                if let Some(there) = self.sides.there.get_mut(&topic) {
                    there.remove(&peer);
                }
            }
        }
    }

    /// A process is on a side topic, let in or by a fault of the server.
    pub fn intrude(&mut self, peer: Peer, topic: &str) {
        self.sides.there.entry(topic.to_owned()).or_default().insert(peer);
        self.look(topic);
    }

    /// How often somebody went to a side topic, let in or not.
    pub fn attended(&self, topic: &str) -> usize {
        self.sides.attended.get(topic).copied().unwrap_or_default()
    }

    /// A process that has ended is nowhere.
    pub(super) fn forget_sides(&mut self, peer: Peer) {
        self.sides.watched.retain(|_, (owner, ..)| *owner != peer);
        for there in self.sides.there.values_mut() {
            there.remove(&peer);
        }
    }

    fn look(&mut self, topic: &str) {
        let Some((owner, guest, look)) = self.sides.watched.get(topic).cloned() else { return };
        let there: Vec<UserName> =
            self.sides.there.get(topic).into_iter().flatten().map(|peer| self.places[*peer].login.clone()).collect();
        let sighting = match &there[..] {
            [] => return,
            [one] if *one == guest => Sighting::Guest,
            others => Sighting::Others(others.iter().map(ToString::to_string).collect()),
        };
        // After it was told that the topic is open.
        self.later(TAKES * 2, Happening::Side(owner, SideInput::Seen { topic: topic.to_owned(), look, sighting }));
    }

    pub(super) fn on_side(&mut self, peer: Peer, input: SideInput) {
        match &self.places[peer].machine {
            Machine::Host(_) => self.host_input(peer, HostInput::Side(input)),
            Machine::Worker(_) => self.worker_input(peer, WorkerInput::Side(input)),
            Machine::Client(_) => self.client_input(peer, ClientInput::Side(input)),
            Machine::Gone => {}
        }
    }
}
