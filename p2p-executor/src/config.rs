//! What a command executor is told, and why it may not start.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use p2p_blobs::CacheConfig;

use crate::r::R;

/// How long an interrupted command may take to end by itself before it is killed (S-06).
pub const INTERRUPT_GRACE: Duration = Duration::from_secs(5);

/// Where commands look for programs when the worker itself has no `PATH`.
const FALLBACK_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// How commands are run.
#[derive(Clone, Debug)]
pub struct CommandConfig {
    /// The folder in which the worker makes its own folder, `p2p-USER-XXXXXX`; the system's temp folder unless set. It must exist.
    pub base: PathBuf,
    /// How long an interrupted or timed out command may take to end by itself before it is killed; 5 s unless set.
    pub interrupt_grace: Duration,
    /// Where input files are kept for the next task that needs them; unless set, in the worker's own folder, and only while it lives.
    pub cache: Option<CacheConfig>,
    /// The `PATH` of commands; the worker's own unless set.
    pub path: OsString,
    /// The R that runs futures; none unless set.
    pub r: Option<R>,
}

impl Default for CommandConfig {
    fn default() -> Self {
        let path = env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| FALLBACK_PATH.into());
        Self { base: env::temp_dir(), interrupt_grace: INTERRUPT_GRACE, cache: None, path, r: None }
    }
}

/// Why a worker cannot run commands at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No folder for the attempts' files can be made.
    #[error("cannot make a folder for tasks in {}: {source}; use another folder (TMPDIR)", base.display())]
    Folder {
        /// Where it was tried.
        base: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The cache cannot be opened.
    #[error("cannot open the cache in {}: {source}; use another folder (--cache-dir)", folder.display())]
    Cache {
        /// Where it was tried.
        folder: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Something else that every attempt needs is missing.
    #[error("cannot prepare to run commands: {0}")]
    System(#[from] io::Error),
}
