#!/usr/bin/env bash
# Runs an experiment on TPUs of a GKE cluster that has JobSet (https://jobset.sigs.k8s.io):
#
#   launch/gke.sh [--dry-run] --config=configs/talk.py --workdir=/share/runs/talk [--config.x=y ...]
#
# /share is a ReadWriteMany volume claim named `share` (Filestore), with data, weights and the working
# directory. If all of them are in a bucket, gs://bucket/folder, delete the lines on `share` below.
# The commit that is checked out is run. Set ACCELERATOR and TOPOLOGY to those of the node pool, HOSTS
# to its number of hosts, and CHIPS to the TPU chips of each. To run it again: kubectl delete jobset
# mmgc-jax, then the same command.
set -euo pipefail
cd "$(dirname "$0")/.."

apply() { kubectl apply --filename=-; }
if [ "${1-}" = --dry-run ]; then
    apply() { cat; }
    shift
fi

# A JSON list of the words is a YAML list too.
arguments=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@")

# A ConfigMap may hold 1 MB; the source code is smaller.
apply <<END
apiVersion: v1
kind: ConfigMap
metadata:
  name: mmgc-jax-source
binaryData:
  mmgc_jax.tar.gz: $(git archive --format=tar.gz HEAD | base64 | tr -d '\n')
---
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: mmgc-jax
spec:
  failurePolicy:
    # A run that was stopped or preempted continues from its checkpoint ...
    maxRestarts: 100
    rules:
      # ... but one with a wrong input is not restarted.
      - name: wrong_input
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: hosts
      template:
        spec:
          parallelism: ${HOSTS:-4}
          completions: ${HOSTS:-4}
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: main
                  operator: In
                  values: [2]
          template:
            spec:
              restartPolicy: Never
              # Seconds to finish a step and write a checkpoint.
              terminationGracePeriodSeconds: 180
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: ${ACCELERATOR:-tpu-v5-lite-podslice}
                cloud.google.com/gke-tpu-topology: ${TOPOLOGY:-4x4}
              containers:
                - name: main
                  image: python:3.12
                  command:
                    - bash
                    - -euc
                    - |
                      mkdir /mmgc_jax
                      tar -xzf /source/mmgc_jax.tar.gz -C /mmgc_jax
                      cd /mmgc_jax
                      pip install --quiet --editable '.[tpu,gcs]'
                      exec python -m mmgc_jax.main --distributed "\$@"
                    - main
                  args: $arguments
                  resources:
                    limits:
                      google.com/tpu: ${CHIPS:-4}
                  volumeMounts:
                    - name: source
                      mountPath: /source
                    - name: share
                      mountPath: /share
              volumes:
                - name: source
                  configMap:
                    name: mmgc-jax-source
                - name: share
                  persistentVolumeClaim:
                    claimName: share
END
