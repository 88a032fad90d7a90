//! What a board and a link must do, as suites that any implementation can be run through.
//!
//! Each suite takes what makes fresh places or transports, and panics with words where one breaks a rule of its trait. It
//! may be called from any test:
//!
//! ```
//! use p2p_scheduler::{conformance, memory};
//!
//! async_std::task::block_on(async {
//!     conformance::board(async || {
//!         let hub = memory::MemoryHub::new();
//!         std::array::from_fn(|_| Box::new(hub.board("alice/friends")) as _)
//!     })
//!     .await;
//!     let net = memory::MemoryNet::new();
//!     conformance::link(|| [Box::new(net.transport()) as _, Box::new(net.transport()) as _]).await;
//! });
//! ```
//!
//! | suite | for |
//! |---|---|
//! | [`board()`] | every [`Board`](p2p_proto::board::Board) |
//! | [`foreign_lines`] | boards that are cut out of a byte stream |
//! | [`link()`] | every [`LinkTransport`](p2p_proto::link::LinkTransport) |
//! | [`other_sessions`] | links that prove the other side by themselves, as L-02 demands of all that leave a process |
//!
//! Nothing depends on how fast something is: where a thing must come about, [`PATIENCE`] is the limit; where nothing may come, another
//! thing that must come shows that there was nothing before it.

mod board;
mod link;

pub use board::{board, foreign_lines};
pub use link::{link, other_sessions};

/// What has not come about by then hangs.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Waits for what must come about.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match async_std::future::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing happened for {PATIENCE:?}"),
    }
}
