//! Who may connect.

use scatter_core::types::NodeId;
use scatter_wire::{Identity, PeerHello, Refused, RefusedReason};

/// Decides about handshakes, for the node. Called on the transport's thread.
pub trait Gatekeeper {
    /// What this node says about itself at this moment.
    fn identity(&self) -> Identity;

    /// Whether a node that connects may; that it means this node was checked before. What is to be remembered of it (its
    /// boot counter) is remembered here.
    fn check(&self, hello: &PeerHello) -> Result<(), Refused>;

    /// Whether the node that answered is the one that was asked for (`None`: whoever is there) and may be talked to.
    fn check_answer(&self, asked: Option<NodeId>, answer: &Identity) -> Result<(), Refused>;

    /// The node at `address` refused this node. See [`RefusedReason::gives_up_id`].
    fn refused(&self, address: &str, refused: &Refused);
}

/// Refuses a node of another cluster, by name or by id.
///
/// A node without a cluster may talk to one that has a cluster of the same name: that is how it joins.
pub fn check_introduction(ours: &Identity, theirs: &Identity) -> Result<(), Refused> {
    if ours.cluster_name != theirs.cluster_name {
        let text = format!("the cluster here is named \"{}\", not \"{}\"", ours.cluster_name, theirs.cluster_name);
        return Err(Refused::new(RefusedReason::OtherCluster, text));
    }
    match (ours.cluster, theirs.cluster) {
        (Some(here), Some(there)) if here != there => {
            let text = format!("the cluster here is {here}, not {there}");
            Err(Refused::new(RefusedReason::OtherCluster, text))
        }
        _ => Ok(()),
    }
}

/// Refuses a connection that was meant for another node than the one `here`. `None` asks for whoever is here.
pub fn check_target(asked: Option<NodeId>, here: NodeId) -> Result<(), Refused> {
    match asked {
        Some(asked) if asked != here => {
            Err(Refused::new(RefusedReason::OtherNode, format!("the node here is {here}, not {asked}")))
        }
        Some(_) | None => Ok(()),
    }
}
