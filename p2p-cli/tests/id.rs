//! Who one is: the account as the board tells it, and the machine's key.

mod cluster;

use cluster::Cluster;

#[test]
fn the_account_is_asked_for_once_and_the_key_is_shown_in_two_ways() {
    let cluster = Cluster::start();
    let done = cluster.run("bob", &["id", "--json"]);
    assert_eq!(done.code, Some(0), "{done}");
    let said: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    assert_eq!((said["user"].as_str(), said["board"].as_str()), (Some("bob"), Some(cluster.board())), "{said}");
    let (key, words) = (said["key"].as_str().expect("a key"), said["words"].as_str().expect("words"));
    assert_eq!(words.split(' ').count(), 8, "{said}");
    let done = cluster.run("bob", &["id"]);
    let shown = |text: &str| done.stdout.contains(text);
    assert!(shown(&format!("user   bob on {}", cluster.board())) && shown(key) && shown(words), "{done}");

    // Known by now: nobody is asked again, and one may say it oneself.
    let kept = std::fs::read_to_string(cluster.home("bob").join("accounts.json")).expect("the account is kept");
    assert!(kept.contains("\"bob\""), "{kept}");
    let done = cluster.run("bob", &["id", "--board-user", "robert", "--json"]);
    assert!(done.code == Some(0) && done.stdout.contains("\"robert\""), "{done}");
    let offline = |user: &str| cluster.run(user, &["id", "--offline"]).stdout;
    assert!(offline("bob").contains("user   bob on"), "{}", offline("bob"));
    assert!(!offline("carol").contains("user "), "{}", offline("carol"));
}

#[test]
fn an_account_that_is_no_longer_right_is_forgotten_at_the_first_refusal() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    assert_eq!(cluster.run("carol", &["id"]).code, Some(0));
    let file = cluster.home("carol").join("accounts.json");
    let kept = std::fs::read_to_string(&file).expect("the account is kept");
    std::fs::write(&file, kept.replace("\"carol\"", "\"mallory\"")).expect("a file");
    let done = cluster.run("carol", &["run", "--", "true"]);
    assert_eq!(done.code, Some(68), "{done}");
    let done = cluster.run("carol", &["run", "--", "true"]);
    assert_eq!(done.code, Some(0), "{done}");
}
