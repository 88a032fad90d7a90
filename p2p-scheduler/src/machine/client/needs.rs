//! What a task demands of a worker (S-03).

use std::fmt;

use p2p_proto::board::message::Offer;
use p2p_proto::task::{COMMAND_RUNTIME, R_RUNTIME, TaskSpec};

/// What a task demands of a worker: tasks with the same needs wait in the same queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Needs {
    /// The runtime.
    pub runtime: String,
    /// Slots that it takes.
    pub cpus: u32,
    /// Memory, MiB; 0 for little.
    pub memory_mib: u64,
    /// What the worker must offer beside.
    pub labels: Vec<String>,
    /// Those with a higher one start first; no worker lacks it.
    pub priority: i8,
    /// It starts only once, and so only where a slot is free.
    pub once: bool,
    /// It runs with nothing beside it, and so only where nothing else of this client is (S-04).
    pub alone: bool,
}

impl Needs {
    /// What this task demands.
    pub fn of(spec: &TaskSpec) -> Self {
        let mut labels = spec.labels.clone();
        labels.sort_unstable();
        labels.dedup();
        let (runtime, cpus) = (spec.runtime.clone(), spec.cpus());
        Self {
            runtime,
            cpus,
            memory_mib: spec.memory_mib,
            labels,
            priority: spec.priority,
            once: spec.once,
            alone: false,
        }
    }

    /// Whether a worker with so many slots that offers this could ever run such a task.
    pub(super) fn fit(&self, slots: u32, offer: &Offer) -> bool {
        slots >= self.cpus
            && offer.runtimes.contains(&self.runtime)
            && self.memory_mib <= offer.memory_mib
            && self.labels.iter().all(|label| offer.labels.contains(label))
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.runtime.as_str() {
            COMMAND_RUNTIME => write!(f, "to run commands")?,
            R_RUNTIME => write!(f, "to run R")?,
            runtime => write!(f, "the runtime {runtime}")?,
        }
        let mut with = Vec::new();
        if self.cpus > 1 {
            with.push(format!("{} slots", self.cpus));
        }
        if self.memory_mib > 0 {
            with.push(format!("{} MiB of memory", self.memory_mib));
        }
        with.extend(self.labels.iter().map(|label| format!("the label {label}")));
        if !with.is_empty() {
            write!(f, " with {}", with.join(" and "))?;
        }
        Ok(())
    }
}
