//! What tasks demand of a worker, as `p2p run` and `p2p map` take it.

use bytesize::ByteSize;
use clap::Args;
use p2p_proto::limits;
use p2p_proto::task::Failure;
use p2p_scheduler::Task;

/// What a task demands of a worker.
#[derive(Clone, Debug, Default, Args)]
pub struct Needs {
    /// Slots that a task takes.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::SLOTS)))]
    pub cpus: u32,

    /// Memory that a task needs, such as 4GiB; it goes only to workers that have so much left for tasks.
    #[arg(long, value_name = "SIZE")]
    pub mem: Option<ByteSize>,

    /// A word that the worker must offer (`p2p worker --label`), such as gpu; may be given several times.
    #[arg(long = "label", value_name = "WORD")]
    pub labels: Vec<String>,

    /// Among your own tasks, those with a higher one start first.
    #[arg(long, default_value_t = 0, value_name = "N", allow_hyphen_values = true)]
    pub priority: i8,
}

impl Needs {
    /// Lets `task` demand this.
    ///
    /// # Errors
    /// When there are too many labels, or one is too long.
    pub fn of(&self, task: Task) -> Result<Task, Failure> {
        let mut task = task.cpus(self.cpus).priority(self.priority);
        if let Some(memory) = self.mem {
            task = task.memory_mib(mib(memory));
        }
        for label in &self.labels {
            task = task.label(label)?;
        }
        Ok(task)
    }
}

/// Whole MiB, at least as much.
pub fn mib(size: ByteSize) -> u64 {
    size.as_u64().div_ceil(1024 * 1024)
}
