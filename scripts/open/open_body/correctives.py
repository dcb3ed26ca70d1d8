"""Pose correctives: with them linear skinning from the T-pose imitates mixed skinning from the A-pose."""

import numpy as np
from scipy.spatial.transform import Rotation

from scripts.open.open_body.body import Body, Skeleton, pose_features, pose_meshes
from scripts.open.open_body.source import INDEX, JOINTS, MIRROR, NUM_JOINTS, PARENTS, REFLECT
from scripts.open.open_body.tpose import forward_kinematics, global_rotations, skin

RIDGE = 3.0
LARGEST_CORRECTION = 0.12  # metres; more is a skinning artefact, not flesh


def sample_poses(count: int, rng: np.random.Generator) -> np.ndarray:
    """Random local rotations (count, 55, 3, 3) over the human range of motion."""
    rotvec = np.zeros((count, NUM_JOINTS, 3))

    def uniform(low: float, high: float) -> np.ndarray:
        return np.radians(rng.uniform(low, high, count))

    def normal(sigma: float) -> np.ndarray:
        return np.radians(rng.normal(0, sigma, (count, 3)))

    for joint in range(1, 22):
        rotvec[:, joint] = normal(10)
    for side, sign in (("left", 1), ("right", -1)):
        joint = {name: INDEX[f"{side}_{name}"] for name in
                 ("shoulder", "elbow", "hip", "knee", "ankle", "wrist", "foot", "collar")}  # fmt: skip
        rotvec[:, joint["shoulder"], 2] = sign * uniform(-95, 70)
        rotvec[:, joint["shoulder"], 1] = sign * uniform(-100, 30)
        rotvec[:, joint["shoulder"], 0] = uniform(-45, 45)
        rotvec[:, joint["elbow"], 1] = sign * uniform(-140, 5)
        rotvec[:, joint["elbow"], 0] = uniform(-50, 50)
        rotvec[:, joint["hip"], 0] = uniform(-120, 35)
        rotvec[:, joint["hip"], 2] = sign * uniform(-20, 45)
        rotvec[:, joint["knee"], 0] = uniform(-5, 140)
        rotvec[:, joint["ankle"], 0] = uniform(-35, 45)
        rotvec[:, joint["wrist"]] = normal(30)
        rotvec[:, joint["foot"], 0] = uniform(-50, 30)
        rotvec[:, joint["collar"], 2] = sign * uniform(-20, 25)
        rotvec[:, joint["collar"], 1] = sign * uniform(-20, 20)
    for name in ("spine1", "spine2", "spine3"):
        rotvec[:, INDEX[name], 0] += uniform(-5, 35)
        rotvec[:, INDEX[name], 1] += uniform(-25, 25)
    for name in ("neck", "head"):
        rotvec[:, INDEX[name]] = normal(25)
    rotvec[:, INDEX["jaw"], 0] = uniform(0, 25)
    for joint in range(25, NUM_JOINTS):
        rotvec[:, joint] = normal(12)
        if "thumb" not in JOINTS[joint]:  # fingers curl towards the palm
            rotvec[:, joint, 2] += (-1 if JOINTS[joint].startswith("left") else 1) * uniform(-5, 75)
    return Rotation.from_rotvec(rotvec.reshape(-1, 3)).as_matrix().reshape(count, NUM_JOINTS, 3, 3)


def target_mesh(
    body: Body, apose_joints: np.ndarray, skeleton: Skeleton, to_tpose: np.ndarray, local: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mixed skinning of the artist's A-pose: vertices (V, 3), global rotations (55, 3, 3), joints (55, 3)."""
    rotations = global_rotations(local)
    joints = forward_kinematics(rotations, skeleton.template)
    return (
        skin(body.apose, apose_joints, rotations @ to_tpose, body.surface.weights, joints),
        rotations,
        joints,
    )


def unpose(
    body: Body, skeleton: Skeleton, vertices: np.ndarray, rotations: np.ndarray, joints: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Undo linear skinning: rest vertices (V, 3) and the determinant (V,) of each blended rotation."""
    weights = body.surface.weights
    blended = (weights @ rotations.reshape(NUM_JOINTS, 9)).reshape(-1, 3, 3)
    shift = weights @ (joints - np.einsum("jab,jb->ja", rotations, skeleton.template))
    return np.linalg.solve(blended, (vertices - shift)[..., None])[..., 0], np.linalg.det(blended)


def fit_correctives(
    body: Body, apose_joints: np.ndarray, skeleton: Skeleton, to_tpose: np.ndarray, poses: np.ndarray
) -> np.ndarray:
    """Ridge regression of the residuals on the rotations of the joints that bend each vertex: (V, 3, 486)."""
    count, V = len(poses), len(body.template)
    residual = np.zeros((count, V, 3), np.float32)
    reliable = np.ones((count, V), np.float32)
    for i, local in enumerate(poses):
        vertices, rotations, joints = target_mesh(body, apose_joints, skeleton, to_tpose, local)
        rest, determinant = unpose(body, skeleton, vertices, rotations, joints)
        residual[i] = rest - body.template
        reliable[i] = determinant > 0.15
    residual = np.clip(residual, -LARGEST_CORRECTION, LARGEST_CORRECTION) * reliable[..., None]
    features = pose_features(poses).reshape(count, NUM_JOINTS - 1, 9)

    posedirs = np.zeros((V, 3, NUM_JOINTS - 1, 9), np.float32)
    for joints, members in _bending_joints(body.surface.weights).items():
        columns = [joint - 1 for joint in joints]
        x = features[:, columns].reshape(count, -1)
        y = residual[:, members].reshape(count, -1)
        solution = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
        solution = solution.reshape(len(columns), 9, len(members), 3)
        for a, column in enumerate(columns):
            posedirs[members, :, column] = solution[a].transpose(1, 2, 0)
    return _symmetric_sparse(posedirs, body.surface.mirror)


def _bending_joints(weights: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
    """Vertices grouped by the joints about which they bend: joints they follow together with the parent."""
    follows = weights > 0.01
    groups: dict[tuple[int, ...], list[int]] = {}
    for vertex in range(len(weights)):
        bends = tuple(
            int(j) for j in np.flatnonzero(follows[vertex]) if PARENTS[j] >= 0 and follows[vertex, PARENTS[j]]
        )
        if bends:
            groups.setdefault(bends, []).append(vertex)
    return {joints: np.array(members) for joints, members in groups.items()}


def _symmetric_sparse(posedirs: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Average with the mirror image, drop what is below 0.2 mm: (V, 3, 54, 9) -> (V, 3, 486)."""
    V = len(posedirs)
    matrices = posedirs.reshape(V, 3, NUM_JOINTS - 1, 3, 3)
    mirrored = (
        matrices[mirror][:, :, MIRROR[1:] - 1] * REFLECT[:, None, None, None] * np.outer(REFLECT, REFLECT)
    )
    result = (0.5 * (matrices + mirrored)).reshape(V, 3, -1).astype(np.float32)
    result[np.abs(result) < 2e-4] = 0
    return result


def held_out_error(
    body: Body, apose_joints: np.ndarray, skeleton: Skeleton, to_tpose: np.ndarray, poses: np.ndarray
) -> tuple[float, float]:
    """Mean surface error in metres against the target, without and with correctives."""
    betas = np.zeros((len(poses), body.shapedirs.shape[-1]))
    target = np.stack([target_mesh(body, apose_joints, skeleton, to_tpose, local)[0] for local in poses])
    plain, _ = pose_meshes(body, skeleton, poses, betas, correctives=False)
    corrected, _ = pose_meshes(body, skeleton, poses, betas)
    errors = [np.linalg.norm(posed - target, axis=-1) @ body.area for posed in (plain, corrected)]
    return float(errors[0].mean()), float(errors[1].mean())
