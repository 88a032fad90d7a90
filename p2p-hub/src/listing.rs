//! What `ls` prints, byte for byte as pico.sh prints it, in the order of topic names and of joining.

use crate::registry::TopicView;

/// Formats the topics of one owner.
pub(crate) fn listing(topics: &[TopicView<'_>]) -> String {
    if topics.is_empty() {
        return "no pubsub channels found\n".into();
    }
    let mut text = String::from("Channel Information\r\n");
    for topic in topics {
        let access = match topic.access {
            [] => String::new(),
            entries => format!(" (Access List: {})", entries.join(", ")),
        };
        text += &format!("- {}:{access}\r\n", topic.name);
        for (title, labels) in [
            ("Pubs", &topic.pubs),
            ("Subs", &topic.subs),
            ("Pipes", &topic.pipes),
            ("Waiting Pubs", &topic.waiting_pubs),
        ] {
            if labels.is_empty() {
                continue;
            }
            text += &format!("  {title}:\r\n");
            for label in labels {
                text += &format!("  - {label}\r\n");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_printed_as_pico_sh_prints_them() {
        let access = ["bob".to_owned(), "carol".to_owned()];
        let full = TopicView {
            name: "alice/friends",
            access: &access,
            pubs: vec!["u1 (bob@1.2.3.4:5)"],
            subs: vec!["u2 (carol@1.2.3.4:6)"],
            pipes: vec!["u3 (alice@1.2.3.4:7)", "u4 (alice@[::1]:8)"],
            waiting_pubs: vec![],
        };
        let waiting = TopicView {
            name: "alice/x",
            access: &[],
            pubs: vec![],
            subs: vec![],
            pipes: vec![],
            waiting_pubs: vec!["u5 (alice@1.2.3.4:9)"],
        };
        assert_eq!(
            listing(&[full, waiting]),
            "Channel Information\r\n\
             - alice/friends: (Access List: bob, carol)\r\n  Pubs:\r\n  - u1 (bob@1.2.3.4:5)\r\n  Subs:\r\n  \
             - u2 (carol@1.2.3.4:6)\r\n  Pipes:\r\n  - u3 (alice@1.2.3.4:7)\r\n  - u4 (alice@[::1]:8)\r\n\
             - alice/x:\r\n  Waiting Pubs:\r\n  - u5 (alice@1.2.3.4:9)\r\n"
        );
        assert_eq!(listing(&[]), "no pubsub channels found\n");
    }
}
