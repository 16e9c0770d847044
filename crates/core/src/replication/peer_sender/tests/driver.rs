//! The driver of a sender: it reads what it is told to, and keeps what is sent.

use std::collections::BTreeMap;

use crate::clock::{Moment, WallTime};
use crate::identity::{LogName, Mark, MemberOpening};
use crate::replication::frames::{
    Fact, Frame, Heartbeat, Nack, NackReason, ReceiverFrame, SenderFrame, Want,
};
use crate::replication::peer_sender::{
    PeerSender, ProgressState, SenderAction, SenderConfig, SenderDisconnect,
};
use crate::replication::specimens::{
    RECEIVER, SENDER, ServedLog, at, hello, log_of, number, opening, welcome,
};

const SEED: u64 = 7;

/// A sender with the logs it serves; carries out what it is told to read.
pub(super) struct Driver {
    pub(super) sender: PeerSender,
    pub(super) logs: BTreeMap<LogName, ServedLog>,
    pub(super) now: Moment,
    pub(super) peer: MemberOpening,
    sent: Vec<Frame>,
    pub(super) told: Vec<SenderAction>,
}

impl Driver {
    pub(super) fn new() -> Self {
        let config = SenderConfig { peer: RECEIVER, jitter_seed: SEED };
        let mut driver = Self {
            sender: PeerSender::new(at(0), config, hello(opening(SENDER, 1))),
            logs: BTreeMap::new(),
            now: at(0),
            peer: opening(RECEIVER, 2),
            sent: Vec::new(),
            told: Vec::new(),
        };
        driver.drain();
        driver
    }

    /// Welcomed by a peer that holds nothing and wants these logs.
    pub(super) fn serving(logs: impl IntoIterator<Item = ServedLog>) -> Self {
        let mut driver = Self::new();
        driver.hear(ReceiverFrame::Welcome(welcome(driver.peer, Vec::new())));
        for log in logs {
            let name = log.name;
            let from = log.start.m_id.next();
            driver.serve(log);
            driver.hear(ReceiverFrame::Want(Want { log: name, from }));
        }
        driver
    }

    pub(super) fn serve(&mut self, log: ServedLog) {
        self.sender.handle_log_advanced(self.now, log.offer());
        self.logs.insert(log.name, log);
        self.drain();
    }

    pub(super) fn publish(&mut self, log: LogName, messages: usize, bytes: usize) {
        let mut served = self.logs[&log].clone();
        (0..messages).for_each(|_| served.publish(bytes));
        self.serve(served);
    }

    pub(super) fn hear(&mut self, frame: ReceiverFrame) {
        self.sender.handle_frame(self.now, frame);
        self.drain();
    }

    pub(super) fn acknowledge(&mut self, log: LogName, m_id: u64) {
        let mark = self.logs[&log].mark_at(number(m_id)).expect("it is held");
        self.hear(ReceiverFrame::Ack(Fact { opening: self.peer, marks: vec![(log, mark)] }));
    }

    pub(super) fn complain(&mut self, log: LogName, expected: u64, reason: NackReason) {
        let expected = number(expected);
        self.hear(ReceiverFrame::Nack(Nack { log, expected, reason, detail: "so".to_owned() }));
    }

    /// Goes on to the next timer, with a peer that is alive.
    pub(super) fn timeout(&mut self) -> Moment {
        self.now = self.sender.poll_timeout().expect("a timer runs");
        self.sender.handle_timeout(self.now);
        self.drain();
        let heartbeat = Heartbeat::at(WallTime::new(0));
        self.hear(ReceiverFrame::Heartbeat(heartbeat));
        self.now
    }

    pub(super) fn drain(&mut self) {
        while let Some(action) = self.sender.poll_action() {
            if let SenderAction::ReadAndSend {
                log, from, through, max_bytes, max_messages, ..
            } = action
            {
                let frame = self.logs[&log].read(from, through, max_bytes, max_messages);
                let frame = frame.expect("what is offered can be read");
                let mark = Mark { m_id: frame.last_m_id(), hash: frame.last_hash() };
                self.sender.handle_frame_sent(self.now, &log, from, mark, frame.window_bytes());
                self.sent.push(frame);
            } else {
                self.told.push(action);
            }
        }
    }

    /// The first and last number of each frame sent since the last call.
    pub(super) fn frames(&mut self) -> Vec<(u64, u64)> {
        let bounds = |frame: Frame| (frame.first_m_id.get(), frame.last_m_id().get());
        self.sent.drain(..).map(bounds).collect()
    }

    pub(super) fn told(&mut self) -> Vec<SenderAction> {
        std::mem::take(&mut self.told)
    }

    pub(super) fn disconnect(&mut self) -> Option<SenderDisconnect> {
        self.told().into_iter().find_map(|action| match action {
            SenderAction::Disconnect { reason } => Some(reason),
            _ => None,
        })
    }

    pub(super) fn state(&self, log: LogName) -> ProgressState {
        let status = self.sender.status();
        status.logs.iter().find(|status| status.log == log).expect("it is served").state
    }
}

pub(super) fn offered(actions: &[SenderAction]) -> Vec<Vec<LogName>> {
    let offers = actions.iter().filter_map(|action| match action {
        SenderAction::Transmit(SenderFrame::Offer(offer)) => Some(offer),
        _ => None,
    });
    offers.map(|offer| offer.logs.iter().map(|log| log.log).collect()).collect()
}

pub(super) fn log() -> LogName {
    log_of(1, 1)
}
