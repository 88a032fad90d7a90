//! The suites of `p2p_scheduler::conformance` on every board and link of the workspace.

mod hub;
#[path = "../../../p2p-transport-pico/tests/ssh/server.rs"]
mod server;

use async_std::task::block_on;
use p2p_proto::board::Board;
use p2p_proto::link::LinkTransport;
use p2p_scheduler::conformance;
use p2p_scheduler::memory::{MemoryHub, MemoryNet};
use p2p_transport_wormhole::{WormholeConfig, WormholeTransport};

use server::Kind;

#[test]
fn the_board_in_memory_keeps_the_rules() {
    block_on(conformance::board(async || {
        let hub = MemoryHub::new();
        std::array::from_fn(|_| Box::new(hub.board("alice/friends")) as Box<dyn Board>)
    }));
}

#[test]
fn the_board_over_ssh_keeps_the_rules() {
    board_over_ssh(Kind::Hub);
}

#[test]
#[ignore = "needs P2P_PICO_SERVER: docs/pico.md"]
fn the_board_on_picos_pipe_keeps_the_rules() {
    board_over_ssh(Kind::Pico);
}

fn board_over_ssh(kind: Kind) {
    let site = hub::Site::start(kind, &["alice", "bob", "carol"]);
    block_on(conformance::board(async || site.places().await));
    block_on(async {
        let [reader, writer, other] = site.places().await;
        // He is on the topic with everybody, and writes what he likes.
        let stranger = site.raw().await;
        conformance::foreign_lines([reader, writer], stranger).await;
        drop(other);
    });
}

#[test]
fn links_in_memory_keep_the_rules() {
    let net = MemoryNet::new();
    let transports = || std::array::from_fn(|_| Box::new(net.transport()) as Box<dyn LinkTransport>);
    block_on(conformance::link(transports));
    block_on(conformance::other_sessions(transports));
}

#[test]
fn links_over_tcp_keep_the_rules() {
    let transports = || {
        let config = WormholeConfig { relays: Vec::new(), loopback: true, ..WormholeConfig::default() };
        std::array::from_fn(|_| Box::new(WormholeTransport::new(config.clone())) as Box<dyn LinkTransport>)
    };
    block_on(conformance::link(transports));
    block_on(conformance::other_sessions(transports));
}
