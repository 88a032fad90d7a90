//! What a person should know about files that do not come back.

use p2p_proto::task::Failure;
use p2p_scheduler::executor::OutputWriter;

/// Notes about one attempt's output files; the rest is counted.
const NOTES: usize = 10;

/// Gathers them.
#[derive(Default)]
pub(super) struct Notes {
    texts: Vec<String>,
    more: usize,
}

impl Notes {
    pub(super) fn left_out(&mut self, failure: Failure) {
        self.add(format!("left out: {}", failure.message));
    }

    pub(super) fn add(&mut self, text: String) {
        if self.texts.len() < NOTES {
            self.texts.push(text);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn tell(self, output: &OutputWriter) {
        self.texts.into_iter().for_each(|text| output.note(text));
        if self.more > 0 {
            output.note(format!("{} more output files or patterns brought nothing back", self.more));
        }
    }
}
