//! The custom resource: types only, what is wrong with a value of them, and the files generated from them.

mod cluster;
mod crd;
mod pod;
mod reference;
mod status;
mod validate;

pub use self::{
    cluster::{
        Advertise, AdvertiseMode, Atlas, Autoscaling, Budget, Config, ControlPlane, Edgebound,
        FrontierCluster, FrontierClusterSpec, Gateway, ManagedRedis, Monitoring, Redis, RedisTls, RedisType,
        ServiceType, Servicebound, Tls, UpdateStrategy,
    },
    crd::{crd, crd_yaml},
    pod::PodOverrides,
    reference::reference,
    status::{ConditionType, FrontierClusterStatus, Phase},
    validate::problems,
};
