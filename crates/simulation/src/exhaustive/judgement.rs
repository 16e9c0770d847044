//! Whether a state comes right when nothing goes wrong any more.

use interlock_core::identity::MessageName;

use crate::scenario::EVERYWHERE;

use super::subscriber::Subscriber;
use super::world::World;

impl World {
    /// What is wrong with the state, or with what becomes of it.
    pub(super) fn verdict(mut self) -> Option<String> {
        if self.broken.is_none() {
            self.broken = self.subscriber.as_ref().and_then(|it| self.dishonesty(it));
        }
        if self.broken.is_none() {
            self.replicate();
        }
        self.broken.take().or_else(|| self.difference()).or_else(|| self.resume_everywhere())
    }

    /// Two members that differ though all was sent, or something that was durable
    /// somewhere and is not everywhere.
    fn difference(&self) -> Option<String> {
        let state = |node: &super::node::Node| {
            let directory = node.admission.directory(EVERYWHERE);
            let digest = directory.map_or([0; 16], |directory| directory.digest());
            let shown = node.directories.directory(EVERYWHERE);
            let shown = shown.map_or([0; 16], |directory| directory.digest());
            (node.admission.logs().tips_digest(EVERYWHERE), digest, shown)
        };
        let first = state(&self.nodes[0]);
        for node in &self.nodes {
            if let Some(missing) = self.required.keys().find(|name| !node.holds(name)) {
                return Some(format!("{missing} never comes to n{}", node.number));
            }
            if state(node) != first {
                return Some(format!("n{} differs from n1 after all was sent", node.number));
            }
        }
        None
    }

    /// Resumes the subscriber's cursor at every node.
    fn resume_everywhere(&mut self) -> Option<String> {
        let subscriber = self.subscriber.take()?;
        for at in 0..self.nodes.len() {
            let resumed = subscriber.resumed_at(at, &self.nodes[at], self.now, self.planted);
            self.subscriber = Some(resumed);
            self.read();
            self.lose_patience();
            self.greet_all();
            self.read();
            let resumed = self.subscriber.take().expect("it was just put there");
            let lost = self.dishonesty(&resumed).or_else(|| self.what_never_comes(&resumed));
            if let Some(what) = self.broken.take().or(lost) {
                return Some(format!("resumed at n{}: {what}", at + 1));
            }
        }
        None
    }

    /// Everybody introduces itself to everybody.
    fn greet_all(&mut self) {
        let facts: Vec<_> = self.nodes.iter().map(super::node::Node::fact).collect();
        for node in &mut self.nodes {
            let me = node.number;
            for fact in facts.iter().filter(|fact| fact.opening.node != me) {
                node.take_fact(fact, true, self.now);
            }
        }
    }

    /// Something that a cursor covers and that never came.
    fn dishonesty(&self, subscriber: &Subscriber) -> Option<String> {
        let cursor = subscriber.cursor();
        let wanted = self.wanted(subscriber);
        let covered = wanted.iter().filter(|name| cursor.covers(name, &self.rows));
        let lost = covered
            .into_iter()
            .find(|name| !subscriber.came.contains(name) && !subscriber.is_in_gap(name))?;
        Some(format!("the cursor covers {lost}, which never came: {cursor:?}"))
    }

    /// Something that has not come though all was read, and no gap says so.
    fn what_never_comes(&self, subscriber: &Subscriber) -> Option<String> {
        let wanted = self.wanted(subscriber);
        let mut missing = wanted.iter().filter(|name| !subscriber.came.contains(name));
        let lost = missing.find(|name| !subscriber.is_in_gap(name))?;
        Some(format!("{lost} never comes: {:?}", subscriber.cursor()))
    }

    /// What the subscriber is to get of all that is durable somewhere.
    fn wanted(&self, subscriber: &Subscriber) -> Vec<MessageName> {
        let filter = subscriber.filter();
        let is_wanted = |channel: &String| !channel.is_empty() && filter.matches(channel);
        let required = self.required.iter().filter(|(_, channel)| is_wanted(channel));
        required.map(|(name, _)| *name).collect()
    }
}
