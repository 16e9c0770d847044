//! One subscription at a gateway: from its start to the shared position and along
//! with it, a step at a time. What the gateway's `subscriber_session` does.

use interlock_core::clock::Moment;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::identity::MessageName;

use crate::network::Endpoint;
use crate::node::Process;
use crate::planted_bug::PlantedBug;

use super::Batch;
use super::feed::{Feed, FeedNews, Until};
use super::gateway::{FollowError, Gateway, Taken};
use super::reader::{Reader, Told};

#[derive(Debug)]
enum Stage {
    /// To join the shared order, anew or for the first time.
    ToJoin,
    /// Reads for itself what lies before its place in the shared order.
    Alone { feed: Box<Feed>, at: Endpoint, place: u64 },
    /// Goes along.
    Along { place: u64 },
}

/// See the module's page.
#[derive(Debug)]
pub struct Session {
    reader: Reader,
    stage: Stage,
    told_cursor: Option<Cursor>,
    /// Publications passed over because their channel's epoch has ended.
    pub(crate) ended: Vec<MessageName>,
}

impl Session {
    /// Begins at a cursor, or where the gateway stands; none while the gateway
    /// follows nothing.
    pub fn begin(
        gateway: &Gateway,
        filter: ChannelFilter,
        start: Option<Cursor>,
        now: Moment,
    ) -> Option<Self> {
        let position = gateway.position()?.clone();
        let start = start.map(|cursor| {
            if gateway.has_planted(PlantedBug::UnknownTipsForgotten) {
                let mut known = Cursor::new(cursor.namespace());
                let tips = cursor.tips().filter(|tip| position.rows.ancestry_is_known(tip));
                tips.for_each(|tip| known.advance(tip, &position.rows));
                return known;
            }
            cursor
        });
        let reader = Reader::new(position, filter, start, now);
        Some(Self { reader, stage: Stage::ToJoin, told_cursor: None, ended: Vec::new() })
    }

    /// Where it stands.
    pub fn cursor(&self) -> Cursor {
        self.reader.cursor()
    }

    /// Whether it has still to be told of what its gateway has, or reads alone until it
    /// is where the others are.
    pub fn is_behind(&self, gateway: &Gateway) -> bool {
        match &self.stage {
            Stage::ToJoin | Stage::Alone { .. } => true,
            Stage::Along { place } => *place < gateway.end(),
        }
    }

    /// Goes on by a step of at most so many messages: what the subscriber is told.
    pub fn step(
        &mut self,
        gateway: &Gateway,
        node: Option<(Endpoint, &Process)>,
        now: Moment,
        most: usize,
    ) -> Result<Vec<Told>, FollowError> {
        let mut told = match std::mem::replace(&mut self.stage, Stage::ToJoin) {
            Stage::ToJoin => self.join(gateway, node, now)?,
            Stage::Alone { feed, at, place } => match node {
                Some((endpoint, process)) if endpoint == at => {
                    self.read_alone(feed, at, place, process, now, most)?
                }
                // The node is lost: it joins again, from where it stands.
                _ => Vec::new(),
            },
            Stage::Along { place } => self.go_along(gateway, place, now)?,
        };
        let cursor = self.reader.cursor();
        if !told.is_empty() || self.told_cursor.as_ref() != Some(&cursor) {
            self.told_cursor = Some(cursor.clone());
            told.push(Told::Cursor(cursor));
        }
        Ok(told)
    }

    fn join(
        &mut self,
        gateway: &Gateway,
        node: Option<(Endpoint, &Process)>,
        now: Moment,
    ) -> Result<Vec<Told>, FollowError> {
        let Some(position) = gateway.position() else { return Ok(Vec::new()) };
        let place = gateway.end();
        let gaps = self.reader.join(position, now)?;
        let Some((start, held)) = self.reader.begin_alone() else {
            self.stage = Stage::Along { place };
            return Ok(gaps);
        };
        let Some((at, process)) = node else { return Ok(gaps) };
        let until = Until::Cursor(self.reader.shared().clone());
        let (feed, _, rows) = Feed::open(
            process,
            gateway.namespace(),
            Some(start),
            self.reader.filter().clone(),
            until,
            held,
        )?;
        self.reader.learn(rows, now)?;
        self.stage = Stage::Alone { feed: Box::new(feed), at, place };
        Ok(gaps)
    }

    fn read_alone(
        &mut self,
        mut feed: Box<Feed>,
        at: Endpoint,
        place: u64,
        process: &Process,
        now: Moment,
        most: usize,
    ) -> Result<Vec<Told>, FollowError> {
        let news = feed.go_on(process, most)?;
        self.ended.append(&mut feed.ended);
        match news {
            FeedNews::Batch(Batch { rows, items }) => {
                self.reader.learn(rows, now)?;
                let told = self.reader.take(&items, now);
                self.stage = Stage::Alone { feed, at, place };
                Ok(told)
            }
            news @ (FeedNews::CaughtUp | FeedNews::Finished) => {
                self.reader.end_alone(matches!(news, FeedNews::Finished), now);
                self.stage = Stage::Along { place };
                Ok(Vec::new())
            }
        }
    }

    fn go_along(
        &mut self,
        gateway: &Gateway,
        mut place: u64,
        now: Moment,
    ) -> Result<Vec<Told>, FollowError> {
        let mut told = Vec::new();
        loop {
            match gateway.take(&mut place) {
                Taken::Batch(batch) => told.extend(self.reader.follow(&batch, now)?),
                Taken::Nothing => break,
                Taken::Behind => return Ok(told),
            }
        }
        let again = match gateway.position() {
            Some(position) if !self.reader.is_shared() => {
                self.reader.must_read_again(&position.rows, &gateway.news(), now)?
            }
            _ => false,
        };
        if !again {
            self.stage = Stage::Along { place };
        }
        Ok(told)
    }
}
