#!/usr/bin/env bash
# Runs an experiment on TPUs of a GKE cluster that has JobSet (https://jobset.sigs.k8s.io):
#
#   launch/gke.sh [--dry-run] --config=configs/talk.py --workdir=/share/runs/talk [--config.x=y ...]
#
# /share is a ReadWriteMany volume claim named `share` (such as Filestore) with the data, the weights
# and the working directory. If all of these are in a bucket (gs://bucket/folder), delete the lines
# about `share` below. The script runs the commit that is checked out. Set ACCELERATOR and TOPOLOGY to
# those of the node pool, HOSTS to its number of hosts, and CHIPS to the number of TPU chips per host.
# To run it again: kubectl delete jobset mmgc-jax, then repeat the command.
set -euo pipefail
cd "$(dirname "$0")/.."

apply() { kubectl apply --filename=-; }
if [ "${1-}" = --dry-run ]; then
    apply() { cat; }
    shift
fi

# A JSON list is also a YAML list.
arguments=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@")

# A ConfigMap is limited to 1 MB, so the manual with its images and the tests are left out.
source=(. ':(exclude)docs' ':(exclude)tests')

apply <<END
apiVersion: v1
kind: ConfigMap
metadata:
  name: mmgc-jax-source
binaryData:
  mmgc_jax.tar.gz: $(git archive --format=tar.gz HEAD -- "${source[@]}" | base64 | tr -d '\n')
---
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: mmgc-jax
spec:
  failurePolicy:
    # A stopped or preempted run is restarted and continues from its checkpoint ...
    maxRestarts: 100
    rules:
      # ... but a run with invalid input is not restarted.
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
              # Seconds for finishing a step and writing a checkpoint.
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
