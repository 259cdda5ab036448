//! What one request costs in the client itself: a node in the same process answers at once. Prints nanoseconds.

use scatter_client::{Client, ClientConfig, Key, ReadOptions, WriteOptions};
use scatter_core::command::Outcome;
use scatter_core::group::{Configuration, Descriptor, Member, Role};
use scatter_core::ring::KeyRange;
use scatter_core::types::{Ballot, ConfigurationVersion, GroupId, Incarnation, NodeId, RangeVersion, Version};
use scatter_wire::{
    ClientBody, Description, Epoch, Identity, LocalNode, LocalReply, NodeInfo, NodeState, ReadPath, ReplyBody,
};
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug)]
struct Instantly(Identity);

const EPOCH: Epoch = Epoch { configuration: ConfigurationVersion(1), range: RangeVersion(1) };

impl LocalNode for Instantly {
    fn identity(&self) -> &Identity {
        &self.0
    }

    fn serve(&self, body: ClientBody, _budget_ms: u32, reply: LocalReply) {
        let (group, stamp) = (GroupId(1), Version(1));
        let body = match body {
            ClientBody::Write { .. } => ReplyBody::Outcome {
                outcome: Outcome::Written { version: Version(1), created: false },
                group,
                epoch: EPOCH,
                stamp,
            },
            ClientBody::Read { .. } => ReplyBody::Value {
                found: None,
                group,
                epoch: EPOCH,
                path: ReadPath::Lease,
                staleness_ms: Some(0),
                stamp,
            },
            ClientBody::Describe | ClientBody::Administer { .. } | ClientBody::Locate { .. } => {
                ReplyBody::Description { description: describe() }
            }
        };
        drop(reply.send(Ok(body)));
    }
}

fn describe() -> Description {
    let node = NodeId(1);
    let member = Member { node, incarnation: Incarnation(1), role: Role::Voter, address: "local".into() };
    Description {
        cluster_name: "scatter".into(),
        cluster: None,
        node: NodeInfo {
            node,
            peer_address: "local".into(),
            http_address: String::new(),
            zone: String::new(),
            state: NodeState::Alive,
            replicas: Vec::new(),
        },
        descriptors: vec![Descriptor {
            group: GroupId(1),
            configuration: Configuration { version: ConfigurationVersion(1), members: vec![member] },
            range_version: RangeVersion(1),
            range: KeyRange::whole(),
            leader: Some(node),
            ballot: Ballot { round: 1, node, incarnation: Incarnation(1) },
        }],
        nodes: Vec::new(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let identity = Identity {
        cluster_name: "scatter".into(),
        cluster: None,
        node: NodeId(1),
        boot: 1,
        nonce: 1,
        earlier: Vec::new(),
        peer_address: "127.0.0.1:1".into(),
        http_address: String::new(),
        zone: String::new(),
    };
    let client = Client::start(ClientConfig { seeds: vec!["127.0.0.1:1".into()], ..ClientConfig::default() })?;
    client.register_local(Arc::new(Instantly(identity)));
    client.describe(NodeId(1)).await?;
    let key = Key::new("users/42")?;
    let value = bytes::Bytes::from(vec![0; 256]);
    const COUNT: u32 = 1_000_000;
    for round in 0..3 {
        let begun = Instant::now();
        for _ in 0..COUNT {
            client.put(key.clone(), value.clone(), WriteOptions::default()).await?;
        }
        let put = begun.elapsed() / COUNT;
        let begun = Instant::now();
        for _ in 0..COUNT {
            client.get(&key, ReadOptions::default()).await?;
        }
        eprintln!("round {round}: put {put:?}, get {:?}", begun.elapsed() / COUNT);
    }
    Ok(())
}
