//! Notifications that wait for the engine: a queue per family, because the kernel promises an order
//! only within one.

use std::collections::{BTreeMap, VecDeque};

use crate::net::monitor::Event;

/// What a notification is about. Changes of routes that `--follow` looks at are in the same family as
/// other changes of routes, since the same message of the kernel tells of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Interfaces.
    Links,
    /// Addresses.
    Addresses,
    /// Routes.
    Routes,
    /// Neighbours.
    Neighbours,
    /// That others were lost.
    Lost,
}

impl Family {
    /// Returns the family of an event.
    pub const fn of(event: &Event) -> Self {
        match event {
            Event::Link { .. } => Self::Links,
            Event::Address { .. } => Self::Addresses,
            Event::Local { .. } | Event::Route { .. } | Event::Host(_) => Self::Routes,
            Event::Neighbour { .. } => Self::Neighbours,
            Event::Overrun => Self::Lost,
        }
    }
}

/// What the subscriber has not read yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Notices {
    subscription: Option<Subscription>,
}

#[derive(Clone, Debug)]
struct Subscription {
    hosts: bool,
    room: usize,
    waiting: usize,
    queues: BTreeMap<Family, VecDeque<Event>>,
}

impl Notices {
    /// Begins to keep events for a subscriber, at most `room` of them, and forgets those of the one before.
    pub(super) fn subscribe(&mut self, hosts: bool, room: usize) {
        self.subscription = Some(Subscription {
            hosts,
            room,
            waiting: 0,
            queues: BTreeMap::new(),
        });
    }

    /// Keeps nothing any more.
    pub(super) fn unsubscribe(&mut self) {
        self.subscription = None;
    }

    /// Returns whether the subscriber wants to know of routes to follow; none if there is no subscriber.
    pub(super) fn hosts(&self) -> Option<bool> {
        Some(self.subscription.as_ref()?.hosts)
    }

    /// Keeps an event. While it is not read that others were lost, it is lost, too.
    pub(super) fn push(&mut self, event: Event) {
        let Some(subscription) = &mut self.subscription else {
            return;
        };
        if subscription.queues.contains_key(&Family::Lost) {
            return;
        }
        if subscription.waiting == subscription.room {
            subscription.lose();
            return;
        }
        subscription.waiting += 1;
        let queue = subscription.queues.entry(Family::of(&event)).or_default();
        queue.push_back(event);
    }

    /// Loses what is waiting.
    pub(super) fn lose(&mut self) {
        if let Some(subscription) = &mut self.subscription {
            subscription.lose();
        }
    }

    /// Returns the families of which an event is waiting.
    pub(super) fn families(&self) -> impl Iterator<Item = Family> {
        let queues = self.subscription.iter().flat_map(|it| it.queues.keys());
        queues.copied()
    }

    /// Takes the oldest event of a family.
    pub(super) fn take(&mut self, family: Family) -> Option<Event> {
        let subscription = self.subscription.as_mut()?;
        let queue = subscription.queues.get_mut(&family)?;
        let event = queue.pop_front()?;
        if queue.is_empty() {
            subscription.queues.remove(&family);
        }
        subscription.waiting -= 1;
        Some(event)
    }
}

impl Subscription {
    fn lose(&mut self) {
        let lost = VecDeque::from([Event::Overrun]);
        self.queues = BTreeMap::from([(Family::Lost, lost)]);
        self.waiting = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u32) -> Event {
        Event::Link {
            ifindex,
            name: String::new(),
            up: true,
            gone: false,
        }
    }

    fn neighbour(ifindex: u32) -> Event {
        Event::Neighbour {
            ifindex,
            address: [10, 0, 0, 1].into(),
            mac: None,
        }
    }

    #[test]
    fn each_family_keeps_its_order() {
        let mut notices = Notices::default();
        notices.push(link(1));
        assert_eq!(notices.families().count(), 0, "nobody listens");
        notices.subscribe(false, 10);
        for event in [link(2), neighbour(2), link(3)] {
            notices.push(event);
        }
        let families: Vec<_> = notices.families().collect();
        assert_eq!(families, [Family::Links, Family::Neighbours]);
        assert_eq!(notices.take(Family::Neighbours), Some(neighbour(2)));
        assert_eq!(notices.take(Family::Neighbours), None);
        assert_eq!(notices.take(Family::Links), Some(link(2)));
        assert_eq!(notices.take(Family::Links), Some(link(3)));
        assert_eq!(notices.families().count(), 0);
    }

    #[test]
    fn what_does_not_fit_is_lost_with_all_that_waits() {
        let mut notices = Notices::default();
        notices.subscribe(false, 2);
        for ifindex in 2..9 {
            notices.push(link(ifindex));
        }
        assert_eq!(notices.families().collect::<Vec<_>>(), [Family::Lost]);
        assert_eq!(notices.take(Family::Lost), Some(Event::Overrun));
        notices.push(link(9));
        assert_eq!(notices.take(Family::Links), Some(link(9)));
        notices.push(link(10));
        notices.lose();
        assert_eq!(notices.take(Family::Links), None);
        assert_eq!(notices.take(Family::Lost), Some(Event::Overrun));
    }
}
