//! Which machines have been sent which large inputs (D-01): a task goes rather where its own are than where they would have to be sent.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use p2p_proto::blob::{BlobId, BlobRef};
use p2p_proto::ids::{MachineKey, TaskId};
use p2p_proto::task::{Content, TaskSpec};

use super::tasks::ClassId;
use crate::machine::Now;

/// Large inputs that are remembered; the oldest goes first.
const BLOBS: usize = 4096;
/// Machines that are remembered for each; the oldest goes first.
const MACHINES: usize = 64;

/// A task waits for the next credit of a worker that holds its inputs no longer than sending them would take at this rate, bytes a second: that of a fast
/// local network.
const FAST_BYTES: u64 = 1 << 30;
/// And no longer than this in any case.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was sent where. Workers of one machine share what it keeps.
#[derive(Debug, Default)]
pub(super) struct Locality {
    sent: HashMap<BlobId, VecDeque<MachineKey>>,
    /// The oldest first.
    order: VecDeque<BlobId>,
    /// Of each class the task that waits for a credit of a worker that holds its inputs, and until when.
    waits: BTreeMap<ClassId, (TaskId, Duration)>,
}

impl Locality {
    /// A task was sent to a machine, which will ask for what it does not have.
    pub(super) fn on_sent(&mut self, machine: MachineKey, spec: &TaskSpec) {
        for blob in large(spec) {
            if !self.sent.contains_key(&blob.id) {
                if self.order.len() >= BLOBS
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.sent.remove(&oldest);
                }
                self.order.push_back(blob.id);
            }
            let machines = self.sent.entry(blob.id).or_default();
            if !machines.contains(&machine) {
                if machines.len() >= MACHINES {
                    machines.pop_front();
                }
                machines.push_back(machine);
            }
        }
    }

    /// An attempt there failed, for which its inputs may be the reason.
    pub(super) fn on_failed(&mut self, machine: MachineKey, spec: &TaskSpec) {
        for blob in large(spec) {
            if let Some(machines) = self.sent.get_mut(&blob.id) {
                machines.retain(|known| *known != machine);
            }
        }
    }

    /// Whether the next task of its class waits a moment longer for the credit of a worker where `saved` bytes less would have to be sent.
    pub(super) fn waits(&mut self, now: Now, class: ClassId, task: TaskId, saved: u64) -> bool {
        if saved == 0 {
            self.waits.remove(&class);
            return false;
        }
        let patience = Duration::from_micros(saved / (FAST_BYTES / 1_000_000)).min(PATIENCE);
        let wait = self.waits.entry(class).or_insert((task, now.at + patience));
        if wait.0 != task {
            *wait = (task, now.at + patience);
        }
        now.at < wait.1
    }

    /// Nothing of this class waits so any more.
    pub(super) fn goes(&mut self, class: ClassId) {
        self.waits.remove(&class);
    }

    /// Forgets waits that are over: of tasks that were cancelled.
    pub(super) fn end_waits(&mut self, now: Now) {
        self.waits.retain(|_, (_, until)| *until > now.at);
    }

    /// When the next wait is over.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.waits.values().map(|(_, until)| *until).min()
    }

    /// Bytes of these inputs that a machine has been sent.
    pub(super) fn held(&self, blobs: &[BlobRef], machine: MachineKey) -> u64 {
        let has = |blob: &&BlobRef| self.sent.get(&blob.id).is_some_and(|machines| machines.contains(&machine));
        blobs.iter().filter(has).map(|blob| blob.size).fold(0, u64::saturating_add)
    }
}

/// The inputs of a task that are kept where they are sent.
pub(super) fn large(spec: &TaskSpec) -> impl Iterator<Item = BlobRef> {
    let contents = spec.inputs.iter().map(|file| &file.content).chain([&spec.payload]);
    contents.filter_map(|content| match content {
        Content::Blob(blob) => Some(*blob),
        Content::Inline(_) | Content::Streamed(_) => None,
    })
}

/// How good a worker with a credit is for a task; more is better. Memory that is free comes first, then how soon the task starts there, in
/// tasks ahead of it on each slot, then what need not be sent: nothing is left waiting for an input that could be sent.
pub(super) fn rank(has_memory: bool, ahead: u64, held: u64) -> impl Ord {
    (has_memory, Reverse(ahead), held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(id: u8, size: u64) -> BlobRef {
        BlobRef { id: BlobId([id; 32]), size, chunks: 1 }
    }

    fn spec(blobs: &[BlobRef]) -> TaskSpec {
        let input = |blob: &BlobRef| p2p_proto::task::File {
            name: "in".into(),
            content: Content::Blob(*blob),
            executable: false,
            folder: false,
        };
        TaskSpec { inputs: blobs.iter().map(input).collect(), ..TaskSpec::default() }
    }

    /// Columns: of the first worker, then of the second: whether the memory is free, tasks ahead on each slot, bytes held; which is better.
    #[test]
    fn who_holds_more_is_better_unless_the_task_would_wait_for_him() {
        let table = [
            ((true, 0, 0), (true, 0, 5), 2),
            ((true, 0, 9), (true, 0, 5), 1),
            ((true, 0, 0), (true, 1, 5), 1),
            ((true, 1, 5), (true, 0, 0), 2),
            ((true, 1, 0), (true, 1, 5), 2),
            ((true, 1, 0), (true, 2, 5), 1),
            ((true, 3, 0), (false, 0, 5), 1),
            ((false, 0, 0), (false, 0, 5), 2),
        ];
        for (first, second, better) in table {
            let [first_rank, second_rank] = [first, second].map(|(memory, ahead, held)| rank(memory, ahead, held));
            assert_eq!(if first_rank > second_rank { 1 } else { 2 }, better, "{first:?} or {second:?}");
        }
    }

    #[test]
    fn what_was_sent_is_known_until_an_attempt_fails_there() {
        let mut known = Locality::default();
        let (a, b) = (blob(1, 10), blob(2, 100));
        let (here, there) = (MachineKey([1; 32]), MachineKey([2; 32]));
        known.on_sent(here, &spec(&[a, b]));
        known.on_sent(there, &spec(&[b]));
        assert_eq!((known.held(&[a, b], here), known.held(&[a, b], there)), (110, 100));
        known.on_failed(here, &spec(&[b]));
        assert_eq!((known.held(&[a, b], here), known.held(&[a, b], there)), (10, 100));
    }

    #[test]
    fn a_task_waits_no_longer_than_sending_its_inputs_would_take() {
        let mut known = Locality::default();
        let at = |ms| Now { at: Duration::from_millis(ms), unix: 0 };
        let (class, gib) = (ClassId(0), 1 << 30);
        assert!(!known.waits(at(0), class, TaskId(1), 0));
        assert!(known.waits(at(0), class, TaskId(1), gib / 10));
        assert_eq!(known.wake_at().map(|at| at.as_millis()), Some(100));
        assert!(known.waits(at(99), class, TaskId(1), gib / 10));
        assert!(!known.waits(at(101), class, TaskId(1), gib / 10));
        assert!(known.waits(at(101), class, TaskId(2), 100 * gib), "another task waits anew");
        assert!(known.waits(at(1100), class, TaskId(2), 100 * gib) && !known.waits(at(1101), class, TaskId(2), gib));
        known.goes(class);
        assert_eq!(known.wake_at(), None);
        known.waits(at(0), class, TaskId(1), gib);
        known.end_waits(at(999));
        assert!(known.wake_at().is_some());
        known.end_waits(at(1000));
        assert_eq!(known.wake_at(), None, "one that was cancelled wakes nobody");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Locality::default();
        for id in 0..=BLOBS {
            let mut name = [0; 32];
            name[..8].copy_from_slice(&id.to_le_bytes());
            known.on_sent(MachineKey([0; 32]), &spec(&[BlobRef { id: BlobId(name), ..blob(0, 1) }]));
        }
        assert_eq!((known.sent.len(), known.order.len()), (BLOBS, BLOBS));
        let last = blob(9, 1);
        for machine in 0..=MACHINES {
            known.on_sent(MachineKey([u8::try_from(machine).unwrap(); 32]), &spec(&[last]));
        }
        assert_eq!(known.sent[&last.id].len(), MACHINES);
        assert_eq!(known.held(&[last], MachineKey([0; 32])), 0, "the oldest went");
    }
}
