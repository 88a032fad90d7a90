//! Does what other commands want of the host's process. A wish stays in the file until it is done: a crash does it once more rather than not at all.

use p2p_proto::ids::ClusterName;

use crate::home::Home;
use crate::trouble::Trouble;
use crate::trusted::Wish;

/// Those that are done and may still be in the file.
#[derive(Debug, Default)]
pub struct Wishes(Vec<Wish>);

impl Wishes {
    /// Has each done that is new.
    ///
    /// # Errors
    /// When the file cannot be read, or not be rid of them; that is tried again the next time, and what is done is not done again.
    pub fn look(&mut self, home: &Home, cluster: &ClusterName, mut fulfil: impl FnMut(&Wish)) -> Result<(), Trouble> {
        let mut done = self.0.clone();
        for wish in home.trusted(cluster)?.wishes {
            if let Some(at) = done.iter().position(|other| *other == wish) {
                done.remove(at);
                continue;
            }
            fulfil(&wish);
            self.0.push(wish);
        }
        if !self.0.is_empty() {
            home.change(cluster, |trusted| {
                for wish in &self.0 {
                    if let Some(at) = trusted.wishes.iter().position(|other| other == wish) {
                        trusted.wishes.remove(at);
                    }
                }
            })?;
            self.0.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_wish_stays_until_it_is_done_and_is_done_once() {
        let folder = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "alice/friends".parse().unwrap();
        let home = Home::open(Some(&folder.path().join("p2p"))).unwrap();
        let forget = |user: &str| Wish::Forget(user.parse().unwrap(), None);
        let wish = |user: &str| home.change(&cluster, |trusted| trusted.wish(forget(user)).unwrap()).unwrap();
        wish("bob");
        // The process ends in the midst of it.
        let mut crashed = Wishes::default();
        let crash = AssertUnwindSafe(|| crashed.look(&home, &cluster, |_| panic!("a crash")));
        assert!(catch_unwind(crash).is_err());
        // The next one does it; what comes meanwhile is left for the next time.
        let mut wishes = Wishes::default();
        let mut done = Vec::new();
        wishes
            .look(&home, &cluster, |bobs| {
                done.push(bobs.clone());
                wish("carol");
            })
            .unwrap();
        assert_eq!(done, [forget("bob")]);
        // The file cannot be changed: it is not done again because of that.
        let file = folder.path().join("p2p/clusters/alice+friends.json");
        let text = std::fs::read(&file).unwrap();
        let mut count = 0;
        let spoilt = wishes.look(&home, &cluster, |carols| {
            assert_eq!(*carols, forget("carol"));
            count += 1;
            std::fs::write(&file, "{").unwrap();
        });
        assert!(spoilt.is_err());
        std::fs::write(&file, text).unwrap();
        wishes.look(&home, &cluster, |_| count += 1).unwrap();
        assert_eq!(count, 1);
        assert_eq!(home.trusted(&cluster).unwrap().wishes, []);
        // The same once more is another one.
        wish("carol");
        wishes.look(&home, &cluster, |_| count += 1).unwrap();
        assert_eq!(count, 2);
    }
}
