//! A long and lossy way: everything that needs a round trip is slow there, and nothing else may be.

use std::time::Duration;

use crate::proxy::Weather;
use crate::stage::Stage;

#[test]
fn short_tasks_come_back_over_a_long_and_lossy_way() {
    const TASKS: usize = 60;
    let stage =
        Stage::in_weather(Weather { delay: Duration::from_millis(75), loss: 0.01, seed: 7, ..Weather::default() });
    let _worker = stage.worker("bob", 4);
    let numbers: String = (1..=TASKS).map(|n| format!("{n}\n")).collect();
    std::fs::write(stage.cluster.work("alice").join("values"), &numbers).expect("a file");
    let done = stage.run("alice", &["map", "-k", "echo", "::::", "values"]);
    assert_eq!((done.code, &done.stdout), (Some(0), &numbers), "{done}");
    eprintln!("{TASKS} tasks took {:?}", done.took);
}
