//! Placements: which sets of labels jobs require, and so which lines there are besides the plain ones. A
//! worker reads the lines of those that its own labels satisfy.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use redis::{RedisResult, cmd};

use super::Queue;
use crate::error::Error;
use crate::execution::Priority;
use crate::labels::Labels;
use crate::redis::client::failure;
use crate::redis::keys;

/// Placements by shard, each as its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placements(BTreeMap<u16, Vec<String>>);

impl Placements {
    /// Those of a shard.
    pub(super) fn of(&self, shard: u16) -> Vec<&str> {
        self.0.get(&shard).into_iter().flatten().map(String::as_str).collect()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(Vec::is_empty)
    }

    /// All of them, shard by shard.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &str)> {
        self.0.iter().flat_map(|(shard, them)| them.iter().map(|it| (*shard, it.as_str())))
    }

    /// Those that are not among `others`.
    pub(super) fn without(&self, others: &Self) -> Self {
        let is_new = |shard: u16, it: &str| !others.of(shard).contains(&it);
        let mut left = Self::default();
        for (shard, it) in self.iter().filter(|(shard, it)| is_new(*shard, it)) {
            left.0.entry(shard).or_default().push(it.to_owned());
        }
        left
    }
}

impl Queue {
    /// The placements there are whose jobs a worker with these labels may run. Those of a part of a cluster
    /// that is away are taken to be as they were, in `former`.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn placements(
        &self,
        labels: &Labels,
        former: &Placements,
    ) -> Result<Placements, Error> {
        let mut found = self.all_placements(former).await?;
        for them in found.0.values_mut() {
            // One that is none of ours is nobody's.
            them.retain(|it| it.parse().is_ok_and(|required| labels.satisfy(&required)));
            // They come by their last use.
            them.sort();
        }
        found.0.retain(|_, them| !them.is_empty());
        Ok(found)
    }

    /// Those of these placements that there are still.
    pub(super) async fn placements_among(&self, them: &Placements) -> Result<Placements, Error> {
        let gone = them.without(&self.all_placements(them).await?);
        Ok(them.without(&gone))
    }

    /// All streams of jobs.
    pub(super) async fn streams(&self) -> RedisResult<Vec<String>> {
        let streams = join_all(self.shards().map(|shard| self.streams_of(shard))).await;
        Ok(streams.into_iter().collect::<RedisResult<Vec<_>>>()?.concat())
    }

    /// All streams of jobs of a shard.
    pub(super) async fn streams_of(&self, shard: u16) -> RedisResult<Vec<String>> {
        let placements = self.placements_of(shard).await?;
        let lines = std::iter::once(None).chain(placements.iter().map(|it| Some(it.as_str())));
        let streams = |line| Priority::ALL.map(|priority| keys::line(shard, priority, line));
        Ok(lines.flat_map(streams).collect())
    }

    async fn placements_of(&self, shard: u16) -> RedisResult<Vec<String>> {
        let mut read = cmd("ZRANGE");
        read.arg(keys::placements(shard)).arg(0).arg(-1);
        self.inner.client.run(&read).await
    }

    /// All there are; those of a part of a cluster that is away as they were.
    async fn all_placements(&self, former: &Placements) -> Result<Placements, Error> {
        let read = |shard| async move { (shard, self.placements_of(shard).await) };
        let (mut found, mut failed) = (BTreeMap::new(), None);
        for (shard, them) in join_all(self.shards().map(read)).await {
            match them {
                Ok(them) => drop(found.insert(shard, them)),
                Err(error) if self.client().cluster().is_some() => failed = Some(error),
                Err(error) => return Err(failure(error)),
            }
        }
        if let Some(error) = failed
            && found.is_empty()
        {
            return Err(failure(error));
        }
        for (shard, them) in &former.0 {
            found.entry(*shard).or_insert_with(|| them.clone());
        }
        Ok(Placements(found))
    }

    /// Creates the consumer groups of placements whose lines have lost them, unless they are not to be any
    /// more. One that cannot be reached stops none of the others.
    pub(super) async fn restore_lines(&self, placements: &Placements) -> Result<(), Error> {
        let mut outcome = Ok(());
        for (shard, placement) in placements.iter() {
            if let Err(error) = self.inner.scripts.restore_lines(shard, placement).await {
                outcome = Err(failure(error));
            }
        }
        outcome
    }
}
