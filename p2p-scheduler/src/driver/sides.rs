//! Side topics as the machines want them: a task for each, which ends when it is left (T-02).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::future::AbortHandle;
use p2p_proto::board::{Sighting, Witness};

use super::connections::spawn;
use super::lock;
use crate::machine::side::{SideInput, SideOutput};

/// The topics of one process. Dropping it leaves them.
pub(crate) struct Sides {
    witness: Option<Arc<dyn Witness>>,
    tasks: Mutex<HashMap<String, AbortHandle>>,
}

impl Sides {
    pub(crate) fn new(witness: Option<Arc<dyn Witness>>) -> Self {
        Self { witness, tasks: Mutex::default() }
    }

    /// Does what the machine wants; `tell` takes what happens to it, later and from another task.
    pub(crate) fn perform(&self, output: SideOutput, tell: impl Fn(SideInput) + Send + Sync + 'static) {
        let witness = self.witness.clone();
        let (topic, task) = match output {
            SideOutput::Leave { topic } => {
                if let Some(task) = lock(&self.tasks).remove(&topic) {
                    task.abort();
                }
                return;
            }
            SideOutput::Watch { topic, guest, look } => {
                let name = topic.clone();
                let watch = async move {
                    let opened = match &witness {
                        Some(witness) => witness.open(&name, &guest).await,
                        None => Err(Sighting::Unavailable("this kind of board cannot tell who is who".to_owned())),
                    };
                    let sighting = match opened {
                        Ok(mut watch) => {
                            tell(SideInput::Opened { topic: name.clone(), look });
                            watch.sighting().await
                        }
                        Err(seen) => seen,
                    };
                    tell(SideInput::Seen { topic: name, look, sighting });
                };
                (topic, spawn(watch))
            }
            SideOutput::Attend { topic } => {
                let Some(witness) = witness else { return };
                let name = topic.clone();
                (topic, spawn(async move { witness.attend(&name).await }))
            }
        };
        if let Some(before) = lock(&self.tasks).insert(topic, task) {
            before.abort();
        }
    }
}

impl Drop for Sides {
    fn drop(&mut self) {
        for task in lock(&self.tasks).values() {
            task.abort();
        }
    }
}
