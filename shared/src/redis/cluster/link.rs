//! A way into the cluster for commands: each goes to the node of its key, and follows when the key
//! moves.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value, pipe};
use tokio::time::{Instant, sleep, timeout_at};

use super::slots::{Node, slot_of};
use super::topology::{Lesson, Pool, Topology};
use crate::redis::connection::{COMMAND_TIMEOUT, late};

/// Pause before commands are sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Patience with a node that has not answered for long.
const LITTLE_PATIENCE: Duration = Duration::from_millis(250);
/// Most redirections of one command without a pause; more means that nodes disagree.
const MAX_REDIRECTIONS: usize = 8;

/// A way into the cluster. Clones share their connections.
#[derive(Clone)]
pub(in crate::redis) struct Link {
    topology: Arc<Topology>,
    pool: Arc<Pool>,
    /// Whether commands are sent again, and bounded, when a connection breaks under them.
    repeats: bool,
}

/// Where some of a pipeline's commands go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    node: Node,
    /// Whether the node is to answer for a slot that is still on its way to it.
    asking: bool,
}

/// What became of the commands that went one way.
struct Outcome {
    node: Node,
    /// Their places in the pipeline.
    places: Vec<usize>,
    answers: RedisResult<Vec<Value>>,
    generation: Option<u64>,
}

/// What is to be done about the commands that are left.
#[derive(Default)]
struct Rest {
    places: Vec<usize>,
    /// Those of which another node was named for this once.
    asked: HashMap<usize, Node>,
    needs_pause: bool,
    error: Option<RedisError>,
    /// Whether all that failed did so at nodes that were given up.
    is_given_up: bool,
}

impl Link {
    pub(super) fn repeating(topology: Arc<Topology>, pool: Arc<Pool>) -> Self {
        Self { topology, pool, repeats: true }
    }

    pub(super) fn once(topology: Arc<Topology>) -> Self {
        Self { topology, pool: Arc::default(), repeats: false }
    }

    /// Sends commands, each to its node, and returns their answers in order. Those of different nodes
    /// go side by side.
    async fn send(&self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        let slots = slots_of(commands);
        let mut answers: Vec<Option<Value>> = vec![None; slots.len()];
        let mut rest = Rest { places: (0..slots.len()).collect(), ..Rest::default() };
        let began = Instant::now();
        // One that may block is bounded by its caller, and waits only for what is about to pass.
        let mut deadline = self.repeats.then(|| began + COMMAND_TIMEOUT);
        let mut redirections = 0;
        while !rest.places.is_empty() {
            let until = deadline.unwrap_or_else(|| Instant::now() + COMMAND_TIMEOUT);
            let split = timeout_at(until, Box::pin(self.split(&slots, &rest)));
            let steps = match split.await.unwrap_or_else(|_| Err(late())) {
                Ok(groups) => groups.into_iter().map(|(target, places)| {
                    let is_whole = places.len() == slots.len();
                    let bound = deadline.filter(|_| self.repeats);
                    self.send_to(target, places, commands, is_whole, bound)
                }),
                Err(error) => {
                    let until = *deadline.get_or_insert_with(|| Instant::now() + COMMAND_TIMEOUT);
                    if !is_passing(&error) || Instant::now() + RETRY_PAUSE >= until {
                        return Err(error);
                    }
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            let outcomes = join_all(steps).await;
            rest = Rest { is_given_up: true, ..Rest::default() };
            for outcome in outcomes {
                self.sort(outcome, commands, &mut answers, &mut rest)?;
            }
            let Some(error) = rest.error.take() else { continue };
            let mut until = *deadline.get_or_insert_with(|| Instant::now() + COMMAND_TIMEOUT);
            if rest.is_given_up {
                until = until.min(began + LITTLE_PATIENCE);
            }
            redirections += 1;
            let needs_pause = rest.needs_pause || redirections % MAX_REDIRECTIONS == 0;
            if needs_pause {
                if Instant::now() + RETRY_PAUSE >= until {
                    return Err(error);
                }
                sleep(RETRY_PAUSE).await;
            }
        }
        Ok(answers.into_iter().map(|answer| answer.unwrap_or(Value::Nil)).collect())
    }

    /// The nodes that the rest of the commands go to.
    async fn split(&self, slots: &[u16], rest: &Rest) -> RedisResult<BTreeMap<Target, Vec<usize>>> {
        let mut groups: BTreeMap<Target, Vec<usize>> = BTreeMap::new();
        for place in &rest.places {
            let target = match rest.asked.get(place) {
                Some(node) => Target { node: node.clone(), asking: true },
                None => Target { node: self.topology.owner(slots[*place]).await?, asking: false },
            };
            groups.entry(target).or_default().push(*place);
        }
        Ok(groups)
    }

    async fn send_to(
        &self,
        target: Target,
        places: Vec<usize>,
        commands: &Pipeline,
        is_whole: bool,
        deadline: Option<Instant>,
    ) -> Outcome {
        let Target { node, asking } = target;
        let mut generation = None;
        let step = async {
            let (mut connection, number) = self.pool.connection(&self.topology, &node).await?;
            generation = Some(number);
            if is_whole && !asking {
                return connection.req_packed_commands(commands, 0, places.len()).await;
            }
            let mut some = pipe();
            for (_, command) in
                commands.cmd_iter().enumerate().filter(|(at, _)| places.contains(at))
            {
                if asking {
                    some.cmd("ASKING");
                }
                some.add_command(command.clone());
            }
            let sent = some.len();
            let mut answers = connection.req_packed_commands(&some, 0, sent).await?;
            if asking {
                answers = answers.into_iter().skip(1).step_by(2).collect();
            }
            Ok(answers)
        };
        let given_up = self.topology.is_given_up(&node).then(|| Instant::now() + LITTLE_PATIENCE);
        let answers = match deadline.map(|it| given_up.map_or(it, |until| until.min(it))) {
            Some(deadline) => timeout_at(deadline, step).await.unwrap_or_else(|_| Err(late())),
            None => step.await,
        };
        Outcome { node, places, answers, generation }
    }

    /// Keeps what was answered, and what is left to be done; an error if nothing is.
    fn sort(
        &self,
        outcome: Outcome,
        commands: &Pipeline,
        answers: &mut [Option<Value>],
        rest: &mut Rest,
    ) -> RedisResult<()> {
        let Outcome { node, places, answers: answered, generation } = outcome;
        let values = match answered {
            Ok(values) => values,
            Err(error) => {
                rest.is_given_up &= self.topology.is_given_up(&node);
                let lesson = self.topology.learn(&node, &error);
                if let Some(generation) = generation {
                    self.pool.forget(&node, generation);
                }
                // What was sent may have been done.
                let may_repeat = self.repeats || generation.is_none();
                if lesson == Lesson::None || !may_repeat {
                    return Err(error);
                }
                rest.places.extend(places);
                rest.needs_pause = true;
                rest.error = Some(error);
                return Ok(());
            }
        };
        self.topology.note_answer(&node);
        for (place, value) in places.into_iter().zip(values) {
            let Some(error) = server_error(&value) else {
                answers[place] = Some(value);
                continue;
            };
            match self.topology.learn(&node, &error) {
                Lesson::Moved => {}
                // A script needs all keys of its tenant, and they are in two places.
                Lesson::Ask(_) if is_script(commands, place) => rest.needs_pause = true,
                Lesson::Ask(to) => drop(rest.asked.insert(place, to)),
                Lesson::Wait => rest.needs_pause = true,
                Lesson::Broken | Lesson::None => {
                    answers[place] = Some(value);
                    continue;
                }
            }
            rest.is_given_up = false;
            rest.places.push(place);
            rest.error = Some(error);
        }
        Ok(())
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let mut commands = pipe();
            commands.add_command(command.clone());
            let answers = self.send(&commands).await?;
            Ok(answers.into_iter().next().unwrap_or(Value::Nil))
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        _offset: usize,
        _count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        // No pipeline of ours is a transaction, which is what offsets are for.
        self.send(commands).boxed()
    }

    fn get_db(&self) -> i64 {
        0
    }
}

/// The slots of commands; one without a key goes with the command before it, or the first that has
/// one.
fn slots_of(commands: &Pipeline) -> Vec<u16> {
    let found: Vec<Option<u16>> = commands.cmd_iter().map(slot_of).collect();
    let mut last = found.iter().flatten().next().copied().unwrap_or_default();
    found
        .into_iter()
        .map(|slot| {
            last = slot.unwrap_or(last);
            last
        })
        .collect()
}

fn is_script(commands: &Pipeline, place: usize) -> bool {
    let name = commands.cmd_iter().nth(place).and_then(|it| it.args_iter().next());
    matches!(name, Some(redis::Arg::Simple(b"EVALSHA")))
}

fn server_error(value: &Value) -> Option<RedisError> {
    match value {
        Value::ServerError(error) => Some(RedisError::from(error.clone())),
        _ => None,
    }
}

/// Whether nodes may be found in a moment.
fn is_passing(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped()
}
