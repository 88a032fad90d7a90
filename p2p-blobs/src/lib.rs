//! Blobs on disk: files named by what is in them, and a cache of those that others have sent.
//!
//! A client [`name`]s a file once and sends only what a worker asks for. A worker keeps what it was sent in a [`Cache`], so that it asks
//! for nothing twice. Everything here blocks, but for what waits for its turn; it is called where that is allowed.
//!
//! | module | holds |
//! |---|---|
//! | `naming` | cuts a file by its content, and reads its chunks |
//! | `remembered` | names of files that were read before |
//! | `folder` | a folder with all that is in it, as one run of bytes |
//! | `unpack` | puts such a folder onto disk |
//! | `packing` | compression on the way, where it pays |
//! | `cache` | what is here, for whom, and whether it is still what its name says |
//! | `fill` | a blob on its way in, which goes on where it was left |
//! | `held` | a blob in use, and how it gets into a task's folder |
//! | `room` | keeps the cache below its capacity, and the disk from filling up |
//! | `tally` | what it was good for, and what is coming in |
//! | `turns` | one attempt at a time asks for a blob, and few are fetched ahead of their slots |
//!
//! # Layout
//! `FOLDER/REALM/USER/ID` is a whole blob, read-only; its last use is its access time, which is set and not left to the file system.
//! `ID.recipe` beside it lists its chunks, if there are several; `ID.part` is on its way in, and locked by whoever fills it. Any
//! file may be removed at any time: what is missing is asked for again.
#![forbid(unsafe_code)]

mod cache;
mod fill;
mod folder;
mod held;
mod naming;
mod packing;
mod remembered;
mod room;
mod tally;
mod turns;
mod unpack;

pub use cache::{Cache, CacheConfig, CacheError, DEFAULT_CAPACITY_BYTES, Shelf};
pub use fill::{Begun, Fill};
pub use folder::{Folder, FolderReader};
pub use held::Held;
pub use naming::{name, name_bytes, read_chunk};
pub use packing::{Packer, Worth, unpack};
pub use remembered::{Look, Remembered};
pub use turns::{Ahead, Turn};
pub use unpack::{UnpackError, unpack_folder};
