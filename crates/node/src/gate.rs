//! Who may connect: the core decides, this carries questions and answers.

use crate::driver::Shared;
use crate::transport::{Gatekeeper, PeerSink, check_introduction};
use bytes::Bytes;
use scatter_core::message::HelloError;
use scatter_core::types::NodeId;
use scatter_wire::{Channel, Identity, PeerHello, Refused, RefusedReason};

/// The driver as the transport sees it.
pub struct Gate(pub Shared);

impl Gate {
    fn ask(&self, theirs: &Identity, to: Option<NodeId>) -> Result<(), Refused> {
        let mut driver = self.0.borrow_mut();
        check_introduction(&driver.identity(), theirs)?;
        driver.check_hello(theirs, to).map_err(|error| {
            let reason = match error {
                HelloError::OtherCluster => RefusedReason::OtherCluster,
                HelloError::OtherNode => RefusedReason::OtherNode,
                HelloError::RolledBack => RefusedReason::OldBoot,
                HelloError::Condemned => RefusedReason::Condemned,
                // Only this side is to blame; the caller may try again elsewhere.
                HelloError::GivenUp => RefusedReason::Busy,
            };
            tracing::warn!(node = %theirs.node, address = theirs.peer_address, %error, "refused a node");
            Refused::new(reason, error.to_string())
        })
    }
}

impl Gatekeeper for Gate {
    fn identity(&self) -> Identity {
        self.0.borrow().identity()
    }

    fn check(&self, hello: &PeerHello) -> Result<(), Refused> {
        self.ask(&hello.from, hello.to)
    }

    fn check_answer(&self, asked: Option<NodeId>, answer: &Identity) -> Result<(), Refused> {
        if asked.is_some_and(|asked| asked != answer.node) {
            self.0.borrow().misdirected(&answer.peer_address);
            return Err(Refused::new(RefusedReason::OtherNode, HelloError::OtherNode.to_string()));
        }
        self.ask(answer, None)
    }

    fn refused(&self, address: &str, refused: &Refused) {
        tracing::warn!(address, reason = %refused.text, "a node refused this one");
        if refused.reason == RefusedReason::OtherNode {
            self.0.borrow().misdirected(address);
        }
        if refused.reason.gives_up_id() {
            self.0.borrow_mut().refused_as_rolled_back(NodeId(0));
        }
    }
}

impl PeerSink for Gate {
    fn frame(&self, from: NodeId, _channel: Channel, frame: Bytes) {
        self.0.borrow_mut().on_frame(from, frame);
    }

    fn batch_end(&self, from: NodeId) -> bool {
        let driver = self.0.borrow();
        driver.on_batch_end();
        !driver.is_condemned(from)
    }
}
