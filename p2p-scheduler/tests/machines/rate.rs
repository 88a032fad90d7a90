//! How much a board has to carry (B-03).

use std::time::Duration;

use p2p_proto::limits;

use p2p_simulator::world::{World, offer};

#[test]
fn a_board_of_many_stays_near_its_rate_also_when_everybody_comes_back_at_once() {
    let mut world = World::new(1);
    world.host(&["bob", "dave"]);
    let (worker, client) = (world.worker("bob", 1), world.client("dave"));
    world.run_for(Duration::from_secs(5));
    let mut peers = vec![worker, client];
    for _ in 0..20 {
        peers.push(world.worker_with("bob", offer(1, &["r"]), Some(worker)));
        peers.push(world.client_with("dave", Some(client)));
    }
    world.run_for(Duration::from_secs(70));
    for peer in &peers {
        world.board_down(*peer);
    }
    let since = world.said.len();
    for peer in &peers {
        world.board_up(*peer);
    }
    let began = world.at;
    world.run_for(Duration::from_secs(100));
    let mut per_s = vec![0_u32; 101];
    for (at, _, _) in &world.said[since..] {
        per_s[usize::try_from((*at - began).as_secs()).unwrap()] += 1;
    }
    let most = per_s.iter().max().unwrap();
    assert!(*most <= 2 * limits::BOARD_LINES_PER_S, "{most} lines in one second: {per_s:?}");
    let mean = f64::from(per_s.iter().sum::<u32>()) / 100.0;
    assert!(mean <= f64::from(limits::BOARD_LINES_PER_S), "{mean} lines a second");
}
