//! Side topics: what machines want done in them, and what was seen there (T-02).

use p2p_proto::board::Sighting;
use p2p_proto::ids::UserName;

/// What a machine wants done beside the cluster's topic. Each topic has one user at a time: `Leave` ends whatever was begun there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SideOutput {
    /// Open it for this user alone, and look who comes: [`SideInput::Opened`], then [`SideInput::Seen`], or only the latter.
    Watch {
        /// One's own topic.
        topic: String,
        /// Whose login is looked for.
        guest: UserName,
        /// The number of this look: what an earlier one at the same topic has seen may come late, and is not for this one.
        look: u64,
    },
    /// Go there to be seen. Nothing is answered.
    Attend {
        /// Somebody else's topic.
        topic: String,
    },
    /// End it.
    Leave {
        /// Which topic.
        topic: String,
    },
}

/// What became of [`SideOutput::Watch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SideInput {
    /// It is open: whoever is looked for may be told.
    Opened {
        /// Which topic.
        topic: String,
        /// Which look at it.
        look: u64,
    },
    /// This was seen; nothing more comes.
    Seen {
        /// Which topic.
        topic: String,
        /// Which look at it.
        look: u64,
        /// What.
        sighting: Sighting,
    },
}
