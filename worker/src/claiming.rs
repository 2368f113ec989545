//! Whether this worker takes jobs: it does, unless somebody has it drain, until somebody takes that back.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// What the worker was told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) is_draining: bool,
    /// How many orders there were.
    number: u64,
}

/// The order that holds, and whether it is kept already; cheap to look at.
#[derive(Debug, Default)]
pub(crate) struct Claiming {
    orders: watch::Sender<Order>,
    is_under_way: AtomicBool,
}

/// A claim under way, until dropped.
pub(crate) struct UnderWay<'a>(&'a AtomicBool);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Claiming {
    /// The order that holds.
    pub(crate) fn order(&self) -> Order {
        *self.orders.borrow()
    }

    /// Begins a claim, which is to be kept until its jobs have their slots; none while the worker drains.
    pub(crate) fn begin(&self) -> Option<UnderWay<'_>> {
        self.is_under_way.store(true, Ordering::SeqCst);
        let under_way = UnderWay(&self.is_under_way);
        (!self.order().is_draining).then_some(under_way)
    }

    /// Whether no job begins any more: the worker drains, and the last claim has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.order().is_draining && !self.is_under_way.load(Ordering::SeqCst)
    }

    /// Has the worker drain, or take jobs again.
    pub(crate) fn set_draining(&self, is_draining: bool) {
        self.orders.send_modify(|order| {
            if order.is_draining != is_draining {
                let words = if is_draining {
                    "draining: no more jobs are taken"
                } else {
                    "draining was taken back: jobs are taken again"
                };
                tracing::info!("{words}");
            }
            *order = Order { is_draining, number: order.number + 1 };
        });
    }

    /// Takes over what the queue says, which was asked while `before` held. An order that came since is
    /// newer than the answer.
    pub(crate) fn heed(&self, is_draining: bool, before: Order) {
        if self.order() == before && before.is_draining != is_draining {
            self.set_draining(is_draining);
        }
    }

    /// Returns once the worker drains, or once it does not.
    pub(crate) async fn until(&self, is_draining: bool) {
        let mut orders = self.orders.subscribe();
        // Fails only without a sender, and that is here.
        let _ = orders.wait_for(|order| order.is_draining == is_draining).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_over_while_a_claim_is_under_way() {
        let claiming = Claiming::default();
        let under_way = claiming.begin();
        claiming.set_draining(true);
        assert!(under_way.is_some() && !claiming.is_over());
        drop(under_way);
        assert!(claiming.is_over());
        assert!(claiming.begin().is_none() && claiming.is_over());
        claiming.set_draining(false);
        assert!(claiming.begin().is_some() && !claiming.is_over());
    }

    #[test]
    fn an_answer_of_the_queue_does_not_undo_an_order_that_came_meanwhile() {
        let claiming = Claiming::default();
        let before = claiming.order();
        claiming.set_draining(true);
        claiming.heed(false, before);
        assert!(claiming.order().is_draining, "told to drain after the queue was asked");
        // Taken back, and told again: the answer is from between the two.
        let before = claiming.order();
        claiming.set_draining(false);
        claiming.set_draining(true);
        claiming.heed(false, before);
        assert!(claiming.order().is_draining);
        // Both words were missed: the queue knows.
        claiming.heed(false, claiming.order());
        assert!(!claiming.order().is_draining);
        claiming.heed(true, claiming.order());
        assert!(claiming.order().is_draining);
    }
}
