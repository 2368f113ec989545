//! Group commit: steps that come while another one is under way wait for it, and are taken together.
//!
//! A step alone goes at once. Under load, what many have in common is paid once: the call, and whatever
//! the script looks up and writes for all of them.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use redis::{RedisError, RedisResult};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// Most steps of a group: Redis does nothing else meanwhile.
const MAX_STEPS: usize = 32;
/// A group that takes as many bytes is not joined any more.
const MAX_BYTES: usize = 256 << 10;

/// What takes the steps of a group, in their order; an answer for each.
type Take<T, A> = dyn Fn(Vec<T>) -> BoxFuture<'static, RedisResult<Vec<A>>> + Send + Sync;

/// Steps that are taken one group after the other.
pub(super) struct GroupCommit<T, A> {
    inner: Arc<Inner<T, A>>,
}

struct Inner<T, A> {
    take: Box<Take<T, A>>,
    line: Mutex<Line<T, A>>,
    /// Owns the one that takes those who wait.
    tasks: TaskTracker,
}

/// Who waits.
struct Line<T, A> {
    is_busy: bool,
    waiting: Vec<Waiting<T, A>>,
}

struct Waiting<T, A> {
    step: T,
    bytes: usize,
    answer: oneshot::Sender<RedisResult<A>>,
}

impl<T: Send + 'static, A: Send + 'static> GroupCommit<T, A> {
    /// `tasks` owns what is done for several callers.
    pub(super) fn new(
        tasks: TaskTracker,
        take: impl Fn(Vec<T>) -> BoxFuture<'static, RedisResult<Vec<A>>> + Send + Sync + 'static,
    ) -> Self {
        let line = Mutex::new(Line { is_busy: false, waiting: Vec::new() });
        Self { inner: Arc::new(Inner { take: Box::new(take), line, tasks }) }
    }

    /// Takes a step of about so many bytes, alone or with others. If the caller does not wait for the
    /// answer, it may have been taken or not.
    ///
    /// # Errors
    /// As for whichever group it is in.
    pub(super) async fn take(&self, step: T, bytes: usize) -> RedisResult<A> {
        let answer = match self.inner.join(step, bytes) {
            Joined::First(step) => {
                let _turn = Turn(Arc::clone(&self.inner));
                let answers = (self.inner.take)(vec![step]).await?;
                return answers.into_iter().next().ok_or_else(missing);
            }
            Joined::Waits(answer) => answer,
        };
        answer.await.unwrap_or_else(|_| Err(missing()))
    }
}

enum Joined<T, A> {
    First(T),
    Waits(oneshot::Receiver<RedisResult<A>>),
}

impl<T: Send + 'static, A: Send + 'static> Inner<T, A> {
    fn line(&self) -> MutexGuard<'_, Line<T, A>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, step: T, bytes: usize) -> Joined<T, A> {
        let mut line = self.line();
        if !mem::replace(&mut line.is_busy, true) {
            return Joined::First(step);
        }
        let (sender, receiver) = oneshot::channel();
        line.waiting.push(Waiting { step, bytes, answer: sender });
        Joined::Waits(receiver)
    }

    /// The next group of those who wait.
    fn next_group(&self) -> Vec<Waiting<T, A>> {
        let mut line = self.line();
        line.waiting.retain(|it| !it.answer.is_closed());
        let mut bytes = 0;
        let fitting = line.waiting.iter().take(MAX_STEPS).take_while(|it| {
            let fits = bytes < MAX_BYTES;
            bytes += it.bytes;
            fits
        });
        let count = fitting.count();
        line.waiting.drain(..count).collect()
    }

    async fn take_waiting(self: Arc<Self>) {
        let _turn = Turn(Arc::clone(&self));
        loop {
            let group = self.next_group();
            if group.is_empty() {
                return;
            }
            let (steps, callers): (Vec<_>, Vec<_>) =
                group.into_iter().map(|it| (it.step, it.answer)).unzip();
            match (self.take)(steps).await {
                Ok(answers) => {
                    for (caller, answer) in callers.into_iter().zip(answers) {
                        // Who has gone away does not want to know.
                        let _gone = caller.send(Ok(answer));
                    }
                }
                Err(error) => {
                    // Nor would it go better with those who came since: they would wait for one another.
                    let others = mem::take(&mut self.line().waiting);
                    for caller in callers.into_iter().chain(others.into_iter().map(|it| it.answer))
                    {
                        let _gone = caller.send(Err(error.clone()));
                    }
                }
            }
        }
    }
}

/// The right to take the next group. Whoever has it may go away at any time: then another takes over if
/// anybody waits.
struct Turn<T: Send + 'static, A: Send + 'static>(Arc<Inner<T, A>>);

impl<T: Send + 'static, A: Send + 'static> Drop for Turn<T, A> {
    fn drop(&mut self) {
        let mut line = self.0.line();
        // Without a runtime the process ends, and nobody waits.
        match Handle::try_current() {
            Ok(runtime) if !line.waiting.is_empty() => {
                self.0.tasks.spawn_on(Arc::clone(&self.0).take_waiting(), &runtime);
            }
            _ => line.is_busy = false,
        }
    }
}

fn missing() -> RedisError {
    (redis::ErrorKind::Io, "the step was given up: this process is ending").into()
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    type Groups = Arc<Mutex<Vec<Vec<u32>>>>;

    /// Answers steps by their double; 0 fails, 1 never ends.
    fn group_commit() -> (Arc<GroupCommit<u32, u32>>, Groups) {
        let groups = Groups::default();
        let seen = Arc::clone(&groups);
        let take = move |steps: Vec<u32>| -> BoxFuture<'static, RedisResult<Vec<u32>>> {
            let seen = Arc::clone(&seen);
            Box::pin(async move {
                seen.lock().unwrap().push(steps.clone());
                tokio::task::yield_now().await;
                match steps[0] {
                    0 => Err(missing()),
                    1 => pending().await,
                    _ => Ok(steps.into_iter().map(|it| it * 2).collect()),
                }
            })
        };
        (Arc::new(GroupCommit::new(TaskTracker::new(), take)), groups)
    }

    /// Takes steps at once; their outcomes.
    async fn take_all(group: &GroupCommit<u32, u32>, steps: &[u32]) -> Vec<RedisResult<u32>> {
        let all = futures_util::future::join_all(steps.iter().map(|it| group.take(*it, 8)));
        timeout(Duration::from_secs(5), all).await.unwrap()
    }

    #[tokio::test]
    async fn what_comes_while_one_is_under_way_goes_together() {
        let (group, groups) = group_commit();
        let answers = take_all(&group, &[5, 6, 7, 8]).await;
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [10, 12, 14, 16]);
        assert_eq!(*groups.lock().unwrap(), [vec![5], vec![6, 7, 8]]);
        // And one alone goes alone again.
        assert_eq!(group.take(9, 8).await.unwrap(), 18);
        assert_eq!(groups.lock().unwrap().last().unwrap(), &[9]);
    }

    #[tokio::test]
    async fn a_group_has_a_size() {
        let (group, groups) = group_commit();
        let steps: Vec<u32> = (2..150).collect();
        assert!(take_all(&group, &steps).await.iter().all(Result::is_ok));
        assert!(groups.lock().unwrap().iter().all(|it| it.len() <= MAX_STEPS));
        let large = (2..6).map(|it| group.take(it, MAX_BYTES));
        futures_util::future::join_all(large).await;
        assert!(groups.lock().unwrap().iter().rev().take(4).all(|it| it.len() == 1));
    }

    #[tokio::test]
    async fn nobody_waits_for_one_who_went_away() {
        let (group, groups) = group_commit();
        let stuck = tokio::select! {
            biased;
            _ = group.take(1, 8) => false,
            // It waits behind the first, which is dropped while it is under way.
            () = async { let _gone = timeout(Duration::from_millis(10), group.take(2, 8)).await; } => true,
        };
        assert!(stuck);
        assert_eq!(take_all(&group, &[3]).await[0].as_ref().unwrap(), &6);
        // Nor is anything taken of one who left before its turn.
        assert_eq!(*groups.lock().unwrap(), [vec![1], vec![3]]);
    }

    #[tokio::test]
    async fn a_failure_is_that_of_all_who_wait() {
        let (group, _) = group_commit();
        let mut steps = vec![4, 0];
        steps.extend(10..200);
        let answers = take_all(&group, &steps).await;
        assert_eq!(answers[0].as_ref().unwrap(), &8);
        assert!(answers[1..].iter().all(Result::is_err));
        assert_eq!(group.take(3, 8).await.unwrap(), 6);
    }
}
